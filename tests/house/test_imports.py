"""The import rules in pyproject.toml hold, and every form of import counts."""

from __future__ import annotations

import graphlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    shutil.which("lint-imports", path=str(Path(sys.executable).parent)) is None,
    reason="import-linter is not installed in this environment",
)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the two packages, to plant imports in."""
    folder = tmp_path_factory.mktemp("house")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "compilekit", folder / "compilekit", ignore=ignored)
    plugins = folder / "compilekit_plugins"
    shutil.copytree(ROOT / "plugins" / "compilekit_plugins", plugins, ignore=ignored)
    shutil.copyfile(ROOT / "pyproject.toml", folder / "pyproject.toml")
    return folder


def lint(folder):
    """The rules that are broken, and the imports that break them."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        check=False,
    )
    broken = re.findall(r"^(.+) BROKEN", done.stdout, re.MULTILINE)
    assert (done.returncode == 0) == (not broken), done.stdout + done.stderr
    return set(broken), set(re.findall(r"(\S+) -> \S+ \(l\.", done.stdout))


def test_the_rules_hold(house):
    assert lint(house) == (set(), set())


def test_no_file_imports_itself_by_way_of_others():
    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph("compilekit", cache_dir=None)
    # import-linter compares the files of a folder, but not with the folder's own `__init__.py`.
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    graphlib.TopologicalSorter(imports).prepare()
    name = "compilekit.recipe"
    imports[f"{name}.draft"] = {name}
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(imports).prepare()


ROOMS = "Each room of the core imports only rooms below it"
ITSELF = "Files inside of compilekit do not import `compilekit` itself"
LAZY = "\n\ndef planted() -> None:\n    {}\n"
CHECKED = "\n\nfrom typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    {}\n"
PLACES = {"progress": "\n{}\n", "locks": LAZY, "staging": CHECKED}
"""At the top of a file, in a function, for types alone: a file for each."""


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("from compilekit.engine.run import Execution", ROOMS),
        ("from compilekit.engine import run", ROOMS),
        ("from ..engine import run", ROOMS),
        ("import compilekit.engine.run", ROOMS),
        ("import compilekit", ITSELF),
        ("from compilekit import Recipe", ITSELF),
    ],
)
def test_a_planted_import_of_each_form_breaks_a_rule(house, statement, rule):
    files = {name: house / "compilekit" / "base" / f"{name}.py" for name in PLACES}
    clean = {name: file.read_text(encoding="utf-8") for name, file in files.items()}
    try:
        for name, file in files.items():
            file.write_text(clean[name] + PLACES[name].format(statement), encoding="utf-8")
        broken, importers = lint(house)
        assert rule in broken
        assert importers >= {f"compilekit.base.{name}" for name in PLACES}
    finally:
        for name, file in files.items():
            file.write_text(clean[name], encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "statement", "rule"),
    [
        ("compilekit/base/progress.py", "import compilekit_plugins", "The core imports no plugin"),
        (
            "compilekit_plugins/channels_last.py",
            "from compilekit.engine.run import Execution",
            "Plugins import only public modules of compilekit",
        ),
        (
            "compilekit/plan/order.py",
            "from compilekit.plan.whole import whole_of",
            "The core has no circle of imports",
        ),
    ],
)
def test_planted_imports_of_plugins_and_circles_break_a_rule(house, file, statement, rule):
    path = house / file
    clean = path.read_text(encoding="utf-8")
    back = house / "compilekit" / "plan" / "whole.py"
    clean_back = back.read_text(encoding="utf-8")
    try:
        path.write_text(f"{clean}{LAZY.format(statement)}", encoding="utf-8")
        if "plan" in file:  # a circle needs a way back
            back.write_text(clean_back + "\nfrom compilekit.plan.order import gives\n")
        assert rule in lint(house)[0]
    finally:
        path.write_text(clean, encoding="utf-8")
        back.write_text(clean_back, encoding="utf-8")
