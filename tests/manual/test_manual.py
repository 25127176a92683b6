"""The manual is complete: what the code has is in it, with its defaults."""

from __future__ import annotations

import doctest
import inspect
import io
import itertools
import json
import re
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy
import pytest
import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import compilekit as ck
from compilekit.cli import app
from compilekit.plugin import hookspecs
from compilekit.recipe import ModelSource, StepEntry, Target, TensorSpec, Verify, library
from compilekit.recipe.parts import RESERVED
from compilekit.steps import CHANGES, FRESH

if TYPE_CHECKING:
    import click

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
WORKLOADS = [
    *(f"A{n}" for n in range(1, 17)),
    *(f"D{n}" for n in range(1, 7)),
    *(f"N{n}" for n in range(1, 14)),
    *(f"G{n}" for n in range(1, 4)),
]
SEPARATOR = re.compile(r"\|[-|]+$")
STEPS = sorted(
    name for name, plugin in ck.load_host().plugins.items() if "compilekit " in plugin.origin
)


def section(page: str, heading: str) -> str:
    """What stands under a heading, up to the next one of its level or above."""
    text = (DOCS / page).read_text(encoding="utf-8")
    start = text.find(f"\n{heading}\n")
    assert start >= 0, f"docs/{page} has no heading {heading!r}"
    rest = text[start + len(heading) + 2 :]
    level = heading.index(" ")
    after = re.search(rf"^#{{1,{level}}} ", rest, re.MULTILINE)
    return rest[: after.start()] if after else rest


def rows(text: str) -> dict[str, list[str]]:
    """The rows of the tables in a text, without their headers: the first cell, and the others."""
    lines = [*text.splitlines(), ""]
    found = {}
    for line, following in itertools.pairwise(lines):
        if line.startswith("|") and not SEPARATOR.match(line) and not SEPARATOR.match(following):
            first, *others = (cell.strip() for cell in line.split("|")[1:-1])
            found[first.replace("`", "")] = others
    return found


def written(value: Any) -> str:
    """A default as the manual writes it."""
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "left out"
    if value == "":
        return "empty"
    if isinstance(value, BaseModel | dict):
        assert value in ({}, Verify())
        return "`{}`"
    if isinstance(value, tuple):
        value = list(value)
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def defaults(model: type[BaseModel]) -> dict[str, str]:
    """The fields of a model by the names that users write, with their defaults."""
    return {
        field.alias or name: written(field.get_default(call_default_factory=True))
        for name, field in model.model_fields.items()
    }


def test_every_hook_has_a_heading_with_its_exact_arguments() -> None:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    found = [getattr(manager.hook, name, None) for name in vars(hookspecs)]
    specs = [hook for hook in found if isinstance(hook, pluggy.HookCaller)]
    signatures = [f"{spec.name}({', '.join(spec.spec.argnames)})" for spec in specs]
    headings = re.findall(r"^### (\w+\(.*\))$", (DOCS / "plugins.md").read_text(), re.MULTILINE)
    assert headings == signatures
    for signature in signatures:
        assert "Must return" in section("plugins.md", f"### {signature}")


@pytest.mark.parametrize("kind", [ck.StepDescription, ck.Effects, ck.StepResult])
def test_every_field_of_what_plugins_say_is_in_the_manual(kind: type) -> None:
    described = rows(section("plugins.md", f"## {kind.__name__}"))
    names = list(inspect.signature(kind).parameters)
    assert [name for name in described if name in names] == names
    for name, parameter in inspect.signature(kind).parameters.items():
        is_required = parameter.default is inspect.Parameter.empty
        assert (described[name][0] == "required") == is_required, name
        if isinstance(parameter.default, str | float | bool) and parameter.default != "":
            assert described[name][0] == f"`{parameter.default}`", name


def test_every_member_of_the_context_is_in_the_manual() -> None:
    described = section("plugins.md", "## StepContext")
    members = [name for name in vars(ck.StepContext) if not name.startswith("_")]
    assert [name for name in members if f"| `{name}" not in described] == []


def test_every_kind_of_change_and_every_property_is_in_the_manual() -> None:
    described = rows(section("plugins.md", "## Effects"))
    assert [change for change in CHANGES if change not in described] == []
    from_the_start = {name for name, cells in described.items() if cells[1:2] == ["yes"]}
    assert from_the_start == FRESH
    host = ck.load_host()
    for name in STEPS:
        for options in some_options(host.descriptions[name]).values():
            effects = host.effects(name, options, "cuda")
            for word in effects.gives | effects.removes | effects.needs | effects.conflicts:
                assert word in described, f"{name}: {word}"


def some_options(description: ck.StepDescription) -> dict[str, Any]:
    """Options that a step accepts, by how the manual calls them: the defaults, if that is all."""
    choices = CHOICES.get(description.options.__name__, [("", {})])
    return {key: description.options(**given) for key, given in choices}


CHOICES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "Attention": [
        (", with sdpa or backend", {"sdpa": ["math"]}),
        (", with slicing", {"slicing": "auto"}),
        (", with vae alone", {"vae": ["tiling"]}),
    ],
    "Gaudi": [("", {}), (", engine: optimum", {"engine": "optimum"})],
    "Lora": [
        (", not fused", {"source": "style"}),
        (", with fuse", {"source": "style", "fuse": True}),
    ],
    "Memory": [
        (", with layerwise", {"layerwise": {"storage": "float8_e4m3fn"}}),
        (", offload: model", {"offload": "model"}),
        (", offload: sequential, or group of level: leaf", {"offload": "sequential"}),
        (", offload: group", {"offload": "group"}),
        (", offload: group, with a folder", {"offload": "group", "group": {"folder": "waiting"}}),
    ],
    "Neuron": [("", {"height": 64, "width": 64})],
    "Precision": [
        (", with dtype", {"dtype": "bfloat16"}),
        (", with tf32 alone", {"tf32": True}),
    ],
    "Scheduler": [
        (", with name or config", {"name": "DDIMScheduler"}),
        (", with on_cpu alone", {"on_cpu": True}),
    ],
    "SwapComponent": [("", {"source": "better"})],
    "Torchao": [
        (", dynamic", {"config": "int8_dynamic"}),
        (", others", {"config": "int8_weight"}),
        (", others, with include or exclude", {"config": "int8_weight", "exclude": ["conv_*"]}),
    ],
}
"""Options of the steps that want some, by how the table of properties calls them."""


def commands() -> dict[str, click.Command]:
    """The commands of the command line."""
    found: dict[str, click.Command] = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found |= (
            {f"{name} {own}": each for own, each in inner.items()} if inner else {name: command}
        )
    return found


def test_every_command_has_a_heading_with_its_arguments() -> None:
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## compilekit (.*)$", text, re.MULTILINE)
    expected = []
    for name, command in commands().items():
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        shown = [
            (p.name or "").upper() if p.required else f"[{(p.name or '').upper()}]"
            for p in arguments
        ]
        expected.append(" ".join([name, *shown]))
    assert headings == expected


@pytest.mark.parametrize("name", commands())
def test_every_option_of_a_command_is_in_its_section_and_no_other(name: str) -> None:
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    heading = re.search(rf"^## compilekit {name}\b.*$", text, re.MULTILINE)
    assert heading
    described = rows(section("commands.md", heading[0]))
    found = {word for cell in described for word in re.findall(r"(?<![\w-])--?[a-z-]+", cell)}
    # Every command has --verbose. The page describes it once, at the top.
    assert "`--verbose`" in text.partition("\n## ")[0]
    options = [
        p for p in commands()[name].params if p.param_type_name == "option" and p.name != "verbose"
    ]
    assert found == {word for option in options for word in (*option.opts, *option.secondary_opts)}
    for option in options:
        row = next(cells for cell, cells in described.items() if option.opts[0] in cell)
        default = option.default
        shown = {None: "none", False: "off"}.get(default, f"`{default}`")  # type: ignore[arg-type]
        assert row[0] == shown, option.name


@pytest.mark.parametrize("name", STEPS)
def test_every_step_has_a_page_with_its_budget_targets_and_options(name: str) -> None:
    description = ck.load_host().descriptions[name]
    text = (DOCS / "steps" / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    assert "\nWhen it helps: " in text
    assert "\nWhen it hurts: " in text
    targets = ", ".join(sorted(description.targets)) or "all"
    assert f"Budget: `{description.budget:g}`. Targets: {targets}." in text
    assert f"Components: {description.components}" in text
    assert not description.extra or f"Needs `{description.extra}`" in text
    described = {key: cells[0] for key, cells in rows(text).items()}
    assert described == defaults(description.options)
    assert "It has no options." in text or described
    assert "```yaml\ncompilekit: 1\n" in text


def test_the_table_of_properties_has_every_step_as_it_is() -> None:
    text = (DOCS / "steps.md").read_text(encoding="utf-8")
    table = {
        key: [sorted(re.findall(r"`(\w+)`", cell)) for cell in cells]
        for key, cells in rows(text[: text.index("\n## ")]).items()
    }
    for name in STEPS:
        assert f"- [{name}](steps/{name}.md): " in text
    host = ck.load_host()
    expected = {}
    for name in STEPS:
        for suffix, options in some_options(host.descriptions[name]).items():
            effects = host.effects(name, options, "cuda")
            expected[f"{name}{suffix}"] = [
                sorted(effects.changes),
                sorted(effects.needs),
                sorted(effects.gives | (effects.changes & {"compiled"})),
                sorted(effects.removes),
                sorted(effects.conflicts),
                sorted(effects.needs_later),
            ]
    assert table == expected


@pytest.mark.parametrize(
    ("model", "prefix"),
    [
        (ck.Recipe, ""),
        (Target, "target."),
        (ModelSource, "model."),
        (TensorSpec, "model.inputs.*."),
        (Verify, "verify."),
    ],
)
def test_every_key_of_a_recipe_is_in_the_manual_with_its_default(
    model: type[BaseModel], prefix: str
) -> None:
    described = rows(section("recipes.md", "## Keys"))
    expected = {f"{prefix}{key}": default for key, default in defaults(model).items()}
    assert {key: described[key][0] for key in expected} == expected


def test_the_keys_of_every_step_are_in_the_manual_with_their_defaults() -> None:
    described = rows(section("recipes.md", "### steps"))
    expected = {key: value for key, value in defaults(StepEntry).items() if key in RESERVED}
    assert {key: described[key][0] for key in expected} == expected


def test_every_shipped_recipe_is_named() -> None:
    text = section("recipes.md", "## Shipped recipes")
    assert re.findall(r"^  (\S+/\S+) ", text, re.MULTILINE) == library.names()


def errors() -> list[type[ck.CompilekitError]]:
    """The exception tree, root first."""
    found: list[type[ck.CompilekitError]] = [ck.CompilekitError]
    for kind in found:
        found += [sub for sub in kind.__subclasses__() if sub.__module__ == "compilekit.errors"]
    return found


def test_every_error_is_in_the_manual_with_its_exit_code() -> None:
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    described = {key: cells[0] for key, cells in rows(text).items() if key.endswith("Error")}
    assert described == {kind.__name__: str(kind.exit_code) for kind in errors()}
    tree = text.split("```text\n")[1].split("```")[0]
    assert (
        re.findall(r"\w+Error", tree)
        == re.findall(r"\w+Error", ck.errors.__doc__ or "")[: len(errors())]
    )


@pytest.mark.parametrize("name", ck.__all__)
def test_every_public_name_has_a_docstring_and_is_in_the_manual(name: str) -> None:
    docstring = getattr(ck, name).__doc__ or ""
    assert docstring
    # The marker's docstring is pluggy's; docs/plugins.md begins with an example of it.
    assert ">>>" in docstring or name == "hookimpl"
    assert not docstring.startswith(f"{name}("), "a dataclass without one gets its signature"
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    assert re.search(rf"`ck\.{name}\b", text)


@pytest.mark.parametrize("name", ck.__all__)
def test_the_examples_in_the_docstring_of_a_public_name_hold(name: str) -> None:
    public = getattr(ck, name)
    module = inspect.getmodule(public)
    runner = doctest.DocTestRunner(verbose=False)
    for example in doctest.DocTestFinder(recurse=False).find(public, name, module):
        report = io.StringIO()
        assert runner.run(example, out=report.write).failed == 0, report.getvalue()


def test_every_workload_has_a_row_that_says_what_serves_it() -> None:
    described = rows((DOCS / "workloads.md").read_text(encoding="utf-8"))
    assert [key for key in described if re.fullmatch(r"[A-Z]\d+", key)] == WORKLOADS
    known = re.compile(r"yes|partly|not yet|by hand")
    assert [key for key in WORKLOADS if not known.match(described[key][1])] == []


def test_the_numbers_of_the_gate_and_the_recording_are_those_of_the_code() -> None:
    from compilekit.engine import gate, instruments, recording

    # As it is written: tests take their times of fewer runs.
    said = runpy.run_path(instruments.__file__)
    text = " ".join((DOCS / "verification.md").read_text(encoding="utf-8").split())
    assert f"error <= budget + {gate.ROUNDING} * (error before the step)" in text
    runs, seconds = said["TIMING_RUNS"], said["TIMING_SECONDS"]
    assert f"less than {seconds} s, it is the quickest of up to {runs} further calls" in text
    assert f"at most {recording.MAX_SIGNATURES} signatures" in text
