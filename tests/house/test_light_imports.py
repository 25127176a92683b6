"""Commands that answer at once load no torch; files stay short. Import rules: import-linter."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import compilekit
import compilekit_plugins

HEAVY = {"torch", "diffusers", "transformers", "accelerate", "torchao", "numpy"}
CORE = Path(compilekit.__file__).parent
PLUGINS = Path(compilekit_plugins.__file__).parent

THERE = str(Path(__file__).parents[1] / "compilekit_plugins" / "machines" / "amx.json")


def loaded(code: str) -> set[str]:
    """The heavy packages that a new interpreter has loaded after some code."""
    ending = "; import sys, json; print(json.dumps(sorted({n.split('.')[0] for n in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", code + ending], capture_output=True, text=True, check=True
    )
    return HEAVY & set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_compilekit_loads_nothing_heavy():
    assert loaded("import compilekit") == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["plan", "sdxl/cuda"],
        ["plan", "sdxl/cuda", "--strict"],
        ["plan", "sd/cpu", "--machine", THERE, "--strict", "--json"],
        ["plugins"],
        ["recipes"],
        ["schema"],
    ],
    ids=["help", "plan", "plan strictly", "plan for a machine", "plugins", "recipes", "schema"],
)
def test_commands_that_only_look_load_nothing_heavy(arguments):
    code = f"""
import sys; sys.argv = ["compilekit", *{arguments}]
from compilekit.cli import main
try: main()
except SystemExit as done: assert not done.code, done.code
pass"""
    assert loaded(code) == set()


def test_a_plugin_that_imports_torch_when_it_is_loaded_is_noticed(write):
    path = write(
        "heavy.py",
        """
        import torch
        import compilekit as ck
        @ck.hookimpl(wrapper=True)
        def optimize_model(): yield
        """,
    )
    code = f"import compilekit as ck; p = ck.load_host([{str(path)!r}]).plugins['heavy']"
    assert loaded(f"{code}; assert p.imports_torch") >= {"torch"}


VENDORS = HEAVY | {"habana_frameworks", "optimum", "peft", "torch_neuronx", "libneuronxla"}


def imported_at_once(source: str) -> set[str]:
    """The vendor libraries that a module imports when it is imported."""
    found = []
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.append(node.module or "")
        waiting += ast.iter_child_nodes(node)
    return VENDORS & {name.split(".")[0] for name in found}


def test_plugins_import_vendor_libraries_only_inside_functions():
    # The files beside a plugin's own module are imported in a hook.
    modules = [*PLUGINS.glob("*.py"), *PLUGINS.glob("*/__init__.py")]
    found = {
        path.relative_to(PLUGINS).as_posix(): names
        for path in modules
        if (names := imported_at_once(path.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("import torch.nn as nn", {"torch"}),
        ("from diffusers.models import UNet2DConditionModel", {"diffusers"}),
        ("try:\n    import peft\nexcept ImportError:\n    pass", {"peft"}),
        ("class Options:\n    from torch import nn", {"torch"}),
        ("def export():\n    import torch", set()),
        ("if TYPE_CHECKING:\n    import torch", set()),
    ],
)
def test_each_form_of_an_import_at_once_is_seen(source, seen):
    assert imported_at_once(source) == seen


def test_no_file_is_longer_than_400_lines():
    paths = [*CORE.rglob("*.py"), *PLUGINS.rglob("*.py")]
    assert [p.name for p in paths if len(p.read_text(encoding="utf-8").splitlines()) > 400] == []
