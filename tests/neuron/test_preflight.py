"""The checks before the compiler runs: each finds what it is for, and can be run alone."""

from __future__ import annotations

import shutil
import sys

import pytest
from neuron.conftest import SAMPLE, recipe_of
from neuron.models import set_config, spoil

import compilekit as ck


def check(model, level, **options):
    force = options.pop("force", False)
    recipe = recipe_of(sample=SAMPLE, **options)
    return ck.preflight(recipe, str(model), level=level, force=force, progress=False)


@pytest.fixture
def copied(models, tmp_path):
    def _copied(name):
        return shutil.copytree(models(name), tmp_path / name)

    return _copied


def test_tracing_names_every_part_that_it_looked_at(models, standin):
    assert check(models("sd"), "trace") == [
        "traced on the CPU: text_encoder, unet, vae_encoder, vae_decoder"
    ]


@pytest.mark.full
def test_compiling_alone_keeps_nothing(models, standin, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notes = check(models("sd"), "compile")
    assert notes[-1].startswith("compiled, and not kept, in ")
    assert list(tmp_path.iterdir()) == []


def test_a_unet_that_is_too_narrow_for_the_text_is_found(copied, standin):
    folder = copied("sd")

    def narrow(tensors):
        for name in list(tensors):
            if "attn2.to_k" in name or "attn2.to_v" in name:
                tensors[name] = tensors[name][:, :48].contiguous()

    spoil(folder, "unet", narrow)
    set_config(folder, "unet", cross_attention_dim=48)
    with pytest.raises(ck.StepError) as caught:
        check(folder, "trace")
    assert (
        "unet: it takes text of width 48 (cross_attention_dim), and the text encoders of "
        "StableDiffusionPipeline give 64"
    ) in str(caught.value)


def test_a_weight_that_is_no_number_is_found(copied, standin):
    folder = copied("sd")

    def ruin(tensors):
        tensors["conv_in.bias"][0] = float("nan")

    spoil(folder, "unet", ruin)
    with pytest.raises(ck.StepError, match=r"unet: the weight conv_in\.bias holds NaN or infinity"):
        check(folder, "trace")


def test_too_little_memory_is_a_fault_of_the_machine_unless_forced(models, tmp_path):
    # The worker runs in a process of its own, so what is known of memory is put into its path.
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path}:$PYTHONPATH exec {sys.executable} "$@"\n')
    fake.chmod(0o755)
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib\n"
        "plain = pathlib.Path.read_text\n"
        "def read(self, *arguments, **keywords):\n"
        "    text = plain(self, *arguments, **keywords)\n"
        "    if str(self) == '/proc/meminfo':\n"
        "        return 'MemAvailable: 1000000 kB\\nSwapFree: 0 kB\\n'\n"
        "    return text\n"
        "pathlib.Path.read_text = read\n"
    )
    said = "memory: compiling takes about 2 GB (a guess, by the size of its UNet), and 1.0 GB"
    with pytest.raises(ck.MachineError) as caught:
        check(models("sd"), "host", python=str(fake))
    assert said in str(caught.value)
    assert str(caught.value).endswith("`--force` goes on all the same")
    assert said in check(models("sd"), "host", python=str(fake), force=True)[0]


STUBS = """
from compilekit_plugins.neuron.worker import trace

class Config:
    mandatory_axes = ()
    values_override = None
    def generate_dummy_inputs(self):
        return {"sample": torch.randn(1, 4)}
    def flatten_inputs(self, inputs):
        return inputs
    def patch_model_and_prepare_aliases(self, model, names):
        return model, {}

def faults(module):
    with torch.no_grad():
        return list(trace._faults("part", module, Config(), {}))
"""


def test_code_that_cannot_be_compiled_is_found(there):
    found = there(
        STUBS
        + """
class ByData(torch.nn.Module):
    def forward(self, sample):
        return sample * 2 if sample.sum() > 0 else sample * 3

class Baked(torch.nn.Module):
    def forward(self, sample):
        return sample + float(sample.numpy().sum())

class Blows(torch.nn.Module):
    def forward(self, sample):
        return sample / 0

class Untraceable(torch.nn.Module):
    def forward(self, sample):
        return {"names": "text", "sample": sample}

class Deaf(torch.nn.Module):
    def forward(self, sample):
        return torch.ones(1)

class Fine(torch.nn.Module):
    def forward(self, sample):
        return sample + 1

answer = {kind.__name__: faults(kind()) for kind in
          (ByData, Baked, Blows, Untraceable, Deaf, Fine)}
"""
    )
    baked = "a value was baked in, or it decides by its data"
    assert found["ByData"][0].endswith(baked)
    assert found["Baked"][0].endswith(baked)
    assert found["Blows"] == ["its output holds NaN or infinity"]
    assert found["Untraceable"][0].startswith("it cannot be traced")
    assert found["Deaf"] == ["the input sample changes nothing: no operation reads it"]
    assert found["Fine"] == []
