"""Other interpreters: which of them have other packages, and what is advised."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from compilekit_plugins import elsewhere
from compilekit_plugins.gaudi import machine as gaudi
from compilekit_plugins.gaudi.options import Gaudi
from compilekit_plugins.neuron import machine


@pytest.fixture
def other(tmp_path):
    """An environment of the same Python as this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "other"], check=True)
    return str(tmp_path / "other" / "bin" / "python")


def test_two_environments_of_one_python_are_told_apart(other, monkeypatch):
    assert Path(other).resolve() == Path(sys.executable).resolve()
    assert elsewhere.is_other(other)
    monkeypatch.setenv(machine.PYTHON, other)
    assert machine.missing().endswith(
        f"{machine.PYTHON} names {other}: load it with that interpreter"
    )
    assert gaudi.ingredients(Gaudi(engine="optimum", python=other)) is None


def test_another_name_of_this_interpreter_is_this_interpreter():
    assert not elsewhere.is_other(sys.executable)
    assert not elsewhere.is_other(str(Path(sys.executable).with_name("python3")))


def test_nothing_is_to_be_installed_into_the_environment_that_asks(monkeypatch):
    monkeypatch.delenv(machine.PYTHON, raising=False)
    assert "make an environment for it alone, since it pins older libraries" in machine.missing()


def test_an_interpreter_that_cannot_be_run_is_another_one(tmp_path):
    assert elsewhere.is_other(str(tmp_path / "python"))
