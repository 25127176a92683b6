"""`swap_component` (D5): another VAE, and whether it fits."""

from __future__ import annotations

import pytest
import torch
from support import SAMPLE, draw

import compilekit as ck
from compilekit.testing import tiny_pipeline


@pytest.fixture
def better(tmp_path):
    """A pipeline's folder whose VAE is another one, of the same config."""
    pipe = tiny_pipeline("sd")
    with torch.no_grad():
        for parameter in pipe.vae.parameters():
            parameter.mul_(1.1)
    pipe.save_pretrained(tmp_path / "better")
    return tmp_path / "better"


def apply(steps, pipe=None):
    recipe = ck.Recipe.from_steps(steps, sample=SAMPLE)
    return ck.apply(recipe, pipe or tiny_pipeline("sd"), progress=False)


def swap(folder, component="vae", **more):
    options = {"components": component, "source": f"{folder}", **more}
    body = ", ".join(f"{name}={value}" for name, value in options.items())
    return f"swap_component{{{body}}}"


def test_d5_the_picture_is_that_of_the_other_vae(better):
    done = apply(f"{swap(better / 'vae')}, channels_last{{components=vae}}")
    by_hand = tiny_pipeline("sd")
    by_hand.vae = type(by_hand.vae).from_pretrained(better / "vae")
    assert abs(draw(done.pipeline) - draw(by_hand)).max() < 1e-4
    assert abs(draw(done.pipeline) - draw(tiny_pipeline("sd"))).max() > 1e-2
    assert done.report.end_to_end.psnr > 60


def test_d5_of_a_whole_pipeline_the_subfolder_is_named_and_the_dtype_kept(better):
    pipe = tiny_pipeline("sd", dtype=torch.bfloat16)
    done = apply(swap(better, subfolder="vae"), pipe)
    assert done.pipeline.vae.dtype == torch.bfloat16
    cast = apply(swap(better, subfolder="vae", dtype="float32"))
    assert cast.pipeline.vae.dtype == torch.float32


@pytest.mark.full
def test_d5_a_bundle_has_it(better, exporter, tmp_path, load):
    steps = f"{swap(better / 'vae')}, eager_export{{components=vae.decode}}"
    recipe = ck.Recipe.from_steps(steps, sample=SAMPLE)
    built = ck.build(recipe, tiny_pipeline("sd"), tmp_path / "made", host=exporter, progress=False)
    assert abs(draw(load(built.path)) - built.after.images).max() < 1e-4


def test_d5_what_does_not_fit_is_refused_before_it_runs(better, tmp_path):
    pipe = tiny_pipeline("sd")
    config = dict(pipe.vae.config)
    other = type(pipe.vae).from_config({**config, "latent_channels": 8})
    other.save_pretrained(tmp_path / "wide")
    with pytest.raises(ck.StepError, match="does not fit: latent_channels is 8, and must be 4"):
        apply(swap(tmp_path / "wide"))
    with pytest.raises(ck.StepError, match=r"unet: .* cannot be loaded"):
        apply(swap(tmp_path / "nowhere", component="unet"))
    with pytest.raises(ck.StepError, match="name one component of a pipeline"):
        apply(swap(better, component="[vae, unet]"))
