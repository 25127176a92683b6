"""Commands that answer at once load no torch; files stay short. Import rules: import-linter."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import compilekit
import compilekit_plugins

HEAVY = {"torch", "diffusers", "transformers", "accelerate", "torchao", "numpy"}
CORE = Path(compilekit.__file__).parent
PLUGINS = Path(compilekit_plugins.__file__).parent


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
    [["--help"], ["plan", "sdxl/cuda"], ["plugins"], ["recipes"], ["schema"]],
    ids=lambda arguments: arguments[0],
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


def imported(path: Path, *, at_top: bool = False) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if at_top else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_plugins_import_vendor_libraries_only_inside_functions():
    # What lies beside a plugin's own module is loaded by the body of a hook.
    modules = [*PLUGINS.glob("*.py"), *PLUGINS.glob("*/__init__.py")]
    found = {
        (path.relative_to(PLUGINS).as_posix(), name)
        for path in modules
        for name in imported(path, at_top=True)
        if name.split(".")[0] in HEAVY
    }
    assert found == set()


def test_no_file_is_longer_than_400_lines():
    paths = [*CORE.rglob("*.py"), *PLUGINS.rglob("*.py")]
    assert [p.name for p in paths if len(p.read_text(encoding="utf-8").splitlines()) > 400] == []
