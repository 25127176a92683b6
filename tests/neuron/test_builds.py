"""Builds of the Neuron step: what is cached, what is refused, and what a failure leaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from neuron.conftest import SAMPLE
from neuron.models import lora, spoil

import compilekit as ck


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """How many parts were compiled since it was asked last."""
    log = tmp_path / "compiler.jsonl"
    monkeypatch.setenv("NEURON_STANDIN_LOG", str(log))
    seen = 0

    def count():
        nonlocal seen
        rows = log.read_text().splitlines() if log.exists() else []
        found = sum("flags" in json.loads(row) for row in rows)
        new, seen = found - seen, found
        return new

    return count


def louder(tensors):
    for tensor in tensors.values():
        tensor.mul_(1.05)


def retrained(model, adapter):
    spoil(model, "unet", louder)


def other_controlnet(model, adapter):
    spoil(model, "controlnet", louder)


def other_adapter(model, adapter):
    lora(adapter, seed=1)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param([retrained], id="weights"),
        pytest.param([other_controlnet, other_adapter], id="others", marks=pytest.mark.full),
    ],
)
def test_what_changed_is_never_served_from_the_cache(models, build, tmp_path, compiled, changes):
    model = shutil.copytree(models("controlnet"), tmp_path / "model")
    adapter = lora(tmp_path / "adapter")
    options = {
        "sample": {},
        "cache": True,
        "lora": [{"source": str(adapter), "weight_name": "adapter.safetensors"}],
    }
    build(model, tmp_path / "one", **options)
    assert compiled() == 5
    build(model, tmp_path / "same", **options)
    assert compiled() == 0
    for change in changes:
        change(model, adapter)
        build(model, tmp_path / change.__name__, **options)
        assert compiled() == 5


TWICE = """
import json, sys
import compilekit as ck

recipe, model, target = sys.argv[1:]
built = ck.build(ck.Recipe.parse(recipe), model, target, progress=False)
print(json.dumps([hash("a"), built.manifest.whole.details["class"]]))
"""


def test_another_process_copies_what_was_built(models, standin, tmp_path, compiled):
    adapters = [lora(tmp_path / "one", seed=1), lora(tmp_path / "two", seed=2)]
    said = [{"source": str(path), "weight_name": "adapter.safetensors"} for path in adapters]
    recipe = {
        "compilekit": 1,
        "target": {"device": "neuron"},
        "steps": [{"neuron": {"height": 64, "width": 64, "auto_cast": "none", "lora": said}}],
    }
    hashes, counts = [], []
    for seed in ("1", "2"):
        command = [sys.executable, "-c", TWICE, json.dumps(recipe), models("sd"), tmp_path / seed]
        variables = {"PYTHONHASHSEED": seed, "COMPILEKIT_CACHE": str(tmp_path / "cache")}
        done = subprocess.run(
            command, env={**os.environ, **variables}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        hashes.append(json.loads(done.stdout.splitlines()[-1])[0])
        counts.append(compiled())
    assert hashes[0] != hashes[1]
    assert counts == [4, 0]


def test_n13_the_compiled_folder_is_pushed_as_optimum_neuron_reads_it(bundles):
    pushed = []
    hub = SimpleNamespace(
        create_repo=lambda *_, **__: None, upload_folder=lambda **said: pushed.append(said)
    )
    bundle = bundles("four").path
    ck.push(bundle, "me/sd", api=hub)
    (said,) = pushed
    assert (said["repo_id"], said["folder_path"]) == ("me/sd", str(bundle))
    parts = ("text_encoder", "unet", "vae_encoder", "vae_decoder")
    code = {f"{part}/{name}" for part in parts for name in ("model.neuron", "config.json")}
    assert {"model_index.json", "scheduler/scheduler_config.json", *code} <= {
        *said["allow_patterns"]
    }


def test_a_compiler_that_fails_is_shown_whole_and_leaves_nothing(
    models, build, tmp_path, monkeypatch
):
    monkeypatch.setenv("NEURON_STANDIN_FAIL", "UnetNeuronWrapper")
    (tmp_path / "out").mkdir()
    with pytest.raises(ck.WorkerError) as caught:
        build(models("sd"), tmp_path / "out" / "sd", sample={})
    message = str(caught.value)
    assert "failed: RuntimeError: unet: neuronx-cc: [F137] neuronx-cc was forcibly" in message
    assert "in trace_neuronx" in message
    assert list((tmp_path / "out").iterdir()) == []


def test_a_build_that_is_interrupted_leaves_neither_files_nor_processes(models, standin, tmp_path):
    from support import LISTENING

    out = tmp_path / "out"
    out.mkdir()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "compilekit: 1\ntarget: {device: neuron}\nsteps: [{neuron: {height: 64, width: 64}}]\n"
    )
    code = "from compilekit.cli import main; main()"
    command = [sys.executable, "-c", code, "build", str(recipe), str(models("sd"))]
    asking = subprocess.Popen(
        [*LISTENING, *command, "-o", str(out / "sd"), "--no-cache"], stderr=subprocess.PIPE
    )
    end = time.monotonic() + 120
    while not list(out.glob(".sd.scratch-*/model/unet")) and time.monotonic() < end:
        time.sleep(0.1)
    asking.send_signal(2)
    _, printed = asking.communicate(timeout=60)
    assert (asking.returncode, printed.decode().splitlines()[-1]) == (
        130,
        "compilekit: interrupted",
    )
    assert [path.name for path in out.iterdir()] == []


@pytest.mark.full
def test_weights_beside_the_code_are_refused_for_sdxl(models, build, tmp_path):
    with pytest.raises(ck.StepError, match="the SDK cannot compile SDXL's UNet so"):
        build(models("sdxl"), tmp_path / "xl", sample={}, inline_weights=False)


def test_a_pipeline_that_optimum_neuron_has_not_is_refused(build, tmp_path):
    from compilekit.testing import tiny_pipeline

    tiny_pipeline("sd3").save_pretrained(tmp_path / "sd3")
    with pytest.raises(
        ck.ModelError, match="optimum-neuron has no pipeline for StableDiffusion3Pipeline; it has"
    ):
        build(tmp_path / "sd3", tmp_path / "out", sample={})


def test_what_the_stand_in_made_is_refused_outside_of_tests(bundles, there):
    bundle = bundles("four").path
    found = there(
        """
        from compilekit_plugins.neuron.worker import packages
        standin, real = packages.version, {"neuronx-cc": "2.21.33363.0+82129205"}
        packages.version = lambda name: real.get(name) or standin(name)
        answer = raised(load, bundle)
        """,
        bundle=str(bundle),
    )
    assert found == (
        f"MismatchError: {bundle} was built for another machine:\n"
        "  fatal: neuronx-cc: built with 999.0.0.0+standin, here 2.21.33363.0+82129205; load it on "
        "a machine like that, or build the bundle again here"
    )


def test_without_a_device_a_compiled_pipeline_is_not_loaded(bundles, there):
    bundle = bundles("four").path
    found = there(
        """
        import compilekit_plugins.neuron as step
        step.has_device = lambda: False
        answer = raised(load, bundle)
        """,
        bundle=str(bundle),
    )
    assert found.startswith(f"MachineError: {bundle}: there is no Neuron device here; aws-neuronx")


def test_a_newer_compiler_s_code_is_refused_by_name(bundles, there, tmp_path):
    folder = shutil.copytree(bundles("four").path, tmp_path / "newer")
    path = folder / "manifest.json"
    data = {**json.loads(path.read_text()), "own_digest": ""}
    path.write_text(json.dumps(data).replace('"999.0.0.0+standin"', '"999.1.1+standin"'))
    found = there("answer = raised(load, bundle)", bundle=str(folder))
    assert found.splitlines()[1] == (
        "  fatal: neuronx-cc: built with 999.1.1+standin, here 999.0.0.0+standin; load it on a "
        "machine like that, or build the bundle again here"
    )


def test_the_pipelines_that_are_known_are_those_of_optimum_neuron(there):
    found = there(
        """
        import optimum.neuron.modeling_diffusion as module
        from compilekit_plugins.neuron.worker.model import PIPELINES
        own = {name for name in vars(module) if name.startswith("Neuron") and "Pipeline" in name}
        own = {name for name in own if name.endswith("Pipeline")}
        answer = sorted(own ^ {f"Neuron{name}" for name in PIPELINES})
        """
    )
    assert found == []


def test_verify_draws_the_sample_again(bundles, there):
    found = there(
        """
        from typer.testing import CliRunner
        from compilekit.cli import app
        done = CliRunner().invoke(app, ["verify", bundle, "--replay"])
        answer = [done.exit_code, done.output]
        """,
        bundle=str(bundles("four").path),
    )
    assert found[0] == 0
    assert "the sample's pictures" in found[1]


@pytest.mark.full
def test_bfloat16_weights_are_exported_as_they_are(models, build, tmp_path):
    recipe = ck.Recipe.parse(
        json.dumps(
            {
                "compilekit": 1,
                "target": {"device": "neuron"},
                "model": {"dtype": "bfloat16"},
                "sample": SAMPLE,
                "steps": [{"neuron": {"height": 64, "width": 64}}],
            }
        )
    )
    built = ck.build(recipe, str(models("sd")), tmp_path / "half", cache=False, progress=False)
    config = json.loads((built.path / "unet" / "config.json").read_text())
    assert config["neuron"]["float_dtype"] == "bf16"
    assert built.manifest.whole.error < 0.05
