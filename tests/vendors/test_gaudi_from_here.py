"""Builds with optimum-habana from the main environment: the worker runs in the other one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gaudi.conftest import STANDIN
from typer.testing import CliRunner

import compilekit as ck
from compilekit.base.environment import installed_version
from compilekit.cli import app
from compilekit.testing import tiny_pipeline

OTHER = Path(__file__).parents[2] / ".venv-gaudi" / "bin"
SAMPLE = {"prompt": "a cat", "height": 32, "width": 32, "num_inference_steps": 2, "seed": 7}


@pytest.fixture
def other(write, monkeypatch):
    """The other environment's interpreter, which finds the stand-in; this process does not."""
    if not (OTHER / "python").exists():
        pytest.skip("there is no Gaudi environment: make .venv-gaudi/.ready")
    path = write(
        "python",
        f"""\
        #!/bin/sh
        PYTHONPATH='{STANDIN}' PATH="{STANDIN / "bin"}:$PATH" exec {OTHER / "python"} "$@"
        """,
    )
    path.chmod(0o755)
    monkeypatch.setenv("COMPILEKIT_GAUDI_PYTHON", str(path))
    return path


def build(target, **options):
    text = {
        "compilekit": 1,
        "target": {"device": "hpu"},
        "sample": SAMPLE,
        "steps": [{"scheduler": {"name": "DDIMScheduler"}}, {"gaudi": options}],
    }
    recipe = ck.Recipe.parse(json.dumps(text))
    return ck.build(recipe, tiny_pipeline("sd"), target, cache=False, progress=False)


def test_a_build_works_through_the_other_interpreter_and_loads_only_there(other, tmp_path):
    built = build(tmp_path / "sd", engine="optimum", gaudi_config="Habana/stable-diffusion-2")
    assert built.manifest.whole.error < 1e-4
    details = built.manifest.whole.details
    assert details["versions"]["optimum-habana"] == "1.21.2"
    assert details["recipes"] > 0
    assert details["versions"]["transformers"] != installed_version("transformers")
    done = CliRunner().invoke(app, ["run", str(tmp_path / "sd"), "-o", str(tmp_path / "out")])
    assert done.exit_code == 3
    assert f"COMPILEKIT_GAUDI_PYTHON names {other}: load it with that interpreter" in done.output


@pytest.mark.full
def test_a_pipeline_that_optimum_habana_has_not_is_refused(other, tmp_path):
    with pytest.raises(ck.StepError, match="GaudiPNDMScheduler"):
        build(tmp_path / "sd", engine="optimum", scheduler="GaudiPNDMScheduler")
