"""The Neuron step from the main environment: the worker runs in the other one, loading does too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from neuron.conftest import ENVIRONMENT, SAMPLE, recipe_of
from typer.testing import CliRunner

import compilekit as ck
from compilekit.base.environment import installed_version
from compilekit.cli import app
from compilekit.testing import tiny_pipeline

OTHER = Path(__file__).parents[2] / ".venv-neuron" / "bin" / "python"


@pytest.fixture
def other(write, monkeypatch):
    """The other environment's interpreter, which finds the stand-in; this process does not."""
    if not OTHER.exists():
        pytest.skip("there is no Neuron environment: make .venv-neuron/.ready")
    said = " ".join(f"{k}='{v}'" for k, v in ENVIRONMENT.items())
    path = write("python", f'#!/bin/sh\n{said} exec {OTHER} "$@"\n')
    path.chmod(0o755)
    monkeypatch.setenv("COMPILEKIT_NEURON_PYTHON", str(path))
    return path


def build(target, **options):
    recipe = recipe_of(sample=SAMPLE, **options)
    return ck.build(recipe, tiny_pipeline("sd"), target, cache=False, progress=False)


def test_a_build_works_through_the_other_interpreter_and_loads_only_there(other, tmp_path):
    built = build(tmp_path / "sd")
    assert built.manifest.whole.error < 1e-4
    # Importing optimum-neuron switches torch.compile off for good, in the process that does.
    assert "TORCHDYNAMO_DISABLE" not in os.environ
    assert built.manifest.fingerprint["transformers"] == "4.57.6"
    assert installed_version("transformers") != "4.57.6"
    done = CliRunner().invoke(app, ["run", str(tmp_path / "sd"), "-o", str(tmp_path / "out")])
    assert done.exit_code == 3
    assert f"COMPILEKIT_NEURON_PYTHON names {other}: load it with that interpreter" in done.output


def test_a_time_limit_ends_a_build_and_leaves_nothing(other, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ck.WorkerError, match="gave no result within its time limit of 1 s"):
        build(out / "sd", time_limit=1)
    assert list(out.iterdir()) == []


def test_an_interpreter_that_prints_something_else_is_an_error(write, tmp_path):
    fake = write("python", "#!/bin/sh\necho Segmentation fault\n")
    fake.chmod(0o755)
    with pytest.raises(ck.WorkerError) as caught:
        build(tmp_path / "sd", python=str(fake))
    assert "answered 'Segmentation fault', which is no answer of a worker" in str(caught.value)
