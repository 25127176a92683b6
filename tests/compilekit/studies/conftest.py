"""What the tests of studies share: models that other processes can make."""

from __future__ import annotations

import importlib
import sys

import pytest


@pytest.fixture
def nets(request, write, tmp_path, monkeypatch):
    """The functions of `NETS`, which give models, in a module that can be imported."""
    name = f"nets_{tmp_path.name}".replace("-", "_")
    write(f"{name}.py", request.module.NETS)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module(name)
    del sys.modules[name]
