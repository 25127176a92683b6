"""Which of the user's own files count as the code of a model."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from compilekit.build.code import code_of
from compilekit.testing import tiny_text_encoder

FILES = {
    "__init__.py": "",
    "net.py": """
import compilekit as ck
from torch import nn
from . import layers

class Net(nn.Module):
    def forward(self, x):
        from mine.deep import later
        return later.twice(layers.once(x))
""",
    "layers.py": "once = abs\n",
    "deep/__init__.py": "",
    "deep/later.py": """
import sys
from ..deepest import twice
if sys.version_info < (3,):
    from .... import outside
    from .. import broken
    import mine.missing
""",
    "deepest.py": "def twice(x):\n    return x * 2\n",
    "broken.py": "print 'Python 2'\n",
    "other.py": "",
}
REACHED = {
    "mine", "mine.net", "mine.layers", "mine.deep", "mine.deep.later", "mine.deepest",
    "mine.broken",
}  # fmt: skip
INSTALLED = {"torch", "builtins", "transformers"}
"""Where the methods of every module come from."""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of the user's, of which nothing is imported."""
    for name, text in FILES.items():
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "mine"
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def rows() -> dict[str, str]:
    """The user's files among the code of its model."""
    code = code_of([importlib.import_module("mine.net").Net()])
    assert code.is_own
    return {name: row for name, row in code.versions.items() if name not in INSTALLED}


def test_files_count_that_the_model_may_import_later_and_are_not_imported(package):
    assert rows().keys() == REACHED
    assert "mine.deep" not in sys.modules


def test_what_else_this_process_imported_makes_no_difference(package):
    before = rows()
    importlib.import_module("mine.other")
    importlib.import_module("mine.deep.later")
    assert rows() == before


@pytest.mark.parametrize("file", ["deepest.py", "broken.py", "net.py", "__init__.py"])
def test_an_edit_of_any_of_them_counts(package, file):
    before = rows()
    with (package / file).open("a") as text:
        text.write("# edited\n")
    after = rows()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {".".join(("mine", *Path(file).stem.split("__init__"))).rstrip(".")}


def test_the_code_of_an_installed_model_is_none_of_the_users():
    code = code_of(tiny_text_encoder().modules())
    assert not code.is_own
    assert code.versions["torch"].startswith("2.")
