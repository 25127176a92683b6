"""Everything that users and plugins rely on, as plain data: names, signatures, commands, JSON."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
from pathlib import Path
from typing import Any

import typer
from compat.make import SAMPLE, pipeline
from support import command

import compilekit as ck
from compilekit.cli import app
from compilekit.plugin import hookspecs

HERE = Path(__file__).parent
NUMBER, NULL = "number", "null"


def surface() -> dict[str, Any]:
    """What can be told without running anything."""
    return {
        "names": {name: _described(getattr(ck, name)) for name in sorted(ck.__all__)},
        "entry_points": {
            point.name: point.value for point in importlib.metadata.entry_points(group="compilekit")
        },
        "hooks": {
            name: list(inspect.signature(hook).parameters)
            for name, hook in vars(hookspecs).items()
            if hasattr(hook, f"{hookspecs.PROJECT}_spec")
        },
        "commands": _commands(typer.main.get_command(app)),
    }


def _described(value: Any) -> Any:
    if not isinstance(value, type):
        return _signature(value)
    if issubclass(value, Exception):
        bases = [
            base.__name__ for base in value.__mro__ if base.__module__.startswith("compilekit")
        ]
        return {"bases": bases, "exit_code": getattr(value, "exit_code", None)}
    fields = {*getattr(value, "model_fields", {}), *getattr(value, "__dataclass_fields__", {})}
    public = {name for kind in value.__mro__ for name in vars(kind) if _is_ours(kind, name)}
    return sorted(fields | public)


def _is_ours(kind: type, name: str) -> bool:
    return kind.__module__.startswith("compilekit") and not name.startswith("_")


def _signature(function: Any) -> str:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return type(function).__name__
    marks = {inspect.Parameter.KEYWORD_ONLY: "*", inspect.Parameter.VAR_POSITIONAL: "**"}
    return ", ".join(
        f"{marks.get(p.kind, '')}{p.name}{'' if p.default is p.empty else f'={_shown(p.default)}'}"
        for p in parameters
    )


def _shown(default: Any) -> str:
    return "..." if callable(default) else repr(default)


def _commands(group: Any) -> dict[str, Any]:
    found = {}
    for name, each in group.commands.items():
        if hasattr(each, "commands"):
            found[name] = _commands(each)
        else:
            found[name] = {p.name: [*p.opts, *p.secondary_opts, p.required] for p in each.params}
    return found


def shapes(folder: Path) -> dict[str, Any]:
    """The form of what each command prints with --json."""
    said: dict[str, Any] = {}
    model, recipe, failing = folder / "model", folder / "small.yaml", folder / "failing.yaml"
    pipeline().save_pretrained(model)
    sample = json.dumps(SAMPLE)
    head = f"compilekit: 1\ntarget: {{device: cpu}}\nsample: {sample}\n"
    recipe.write_text(f"{head}steps: [channels_last: {{components: unet}}]\n")
    failing.write_text(f"{head}steps: [precision: {{dtype: bfloat16, budget: 1e-9}}]\n")
    by_hand = ["--plugin", HERE / "by_hand.py"]
    steps = "by_hand{components=unet, modules=[conv_in]}"
    boxed = HERE.parent / "plugins" / "boxed.py"
    runs: dict[str, list[object]] = {
        "plan": ["plan", recipe],
        "apply": ["apply", recipe, model, "-o", folder / "out"],
        "build": ["build", recipe, model, "-o", folder / "b", "--steps", steps, *by_hand],
        "explain": ["explain", recipe, model],
        "batch": ["batch", recipe, model, "--limit", 1],
        "bench": ["bench", recipe, model, "--runs", 1, "--seconds", 0],
        "bisect": ["bisect", failing, model],
        "preflight": ["preflight", recipe, model, "--plugin", boxed, "--steps", "boxed"],
        "cache list": ["cache", "list"],
        "cache size": ["cache", "size"],
        "doctor": ["doctor"],
        "inspect": ["inspect", folder / "b"],
        "inspect a folder": ["inspect", model],
        "verify": ["verify", folder / "b", "--replay", *by_hand],
        "diff": ["diff", folder / "b", HERE / "before" / "bundle"],
        "plugins": ["plugins"],
        "recipes": ["recipes"],
    }
    for name, arguments in runs.items():
        done = command(*arguments, "--json", cwd=folder)
        assert done.returncode == 0, (name, done.stderr)
        said[name] = shape(json.loads(done.stdout))
    for of in ("recipe", "manifest"):
        said[f"schema {of}"] = sorted(json.loads(command("schema", "--of", of).stdout))
    return said


def shape(value: Any) -> Any:
    """The keys and kinds of values; of a list, what its entries have in common."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        merged: Any = None
        for each in value:
            merged = merge(merged, shape(each))
        return [] if merged is None else [merged]
    if value is None:
        return NULL
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (
        NUMBER if is_number or value in ("Infinity", "-Infinity", "NaN") else type(value).__name__
    )


def merge(one: Any, other: Any) -> Any:
    """Both forms in one: what may be null may be anything else too."""
    if one in (None, NULL, []):
        return other
    if other in (NULL, []):
        return one
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: merge(one.get(key), other.get(key, NULL)) for key in {**one, **other}}
    if isinstance(one, list) and isinstance(other, list):
        return [merge(one[0], other[0])]
    return one if one == other else "any"
