"""Whole runs on pipelines of every family: the numbers hold, and the pipeline goes on working."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import compilekit as ck
from compilekit.testing import TINY_KINDS, tiny_pipeline, tiny_text_encoder

ONE_PER_FAMILY = ["flux"]
"""The other kinds run with `make test-all`; a UNet goes through all steps in other tests."""

EXACT = """
  - channels_last: {components: [vae]}
  - qkv_fusion: {components: [DENOISER, vae]}
  - torch_compile: {components: [DENOISER, vae.decode], backend: BACKEND, fullgraph: true}
"""
LOSSY = """
  - precision: {dtype: bfloat16}
  - channels_last: {components: [vae]}
  - qkv_fusion: {components: [DENOISER, vae]}
  - torchao_int8: {components: [DENOISER]}
  - torch_compile: {components: [DENOISER], regions: auto, backend: BACKEND}
"""


def denoiser(kind: str) -> str:
    return "transformer" if kind in {"sd3", "flux", "pixart"} else "unet"


def recipe(kind: str, steps: str, tmp_path: Path, backend: str = "aot_eager") -> ck.Recipe:
    steps = steps.replace("DENOISER", denoiser(kind)).replace("BACKEND", backend)
    sample: dict[str, Any] = {"prompt": "a cat", "num_inference_steps": 2, "seed": 3}
    if kind.startswith("sd-"):
        rng = np.random.default_rng(0)
        for name in ("image", "mask_image"):
            pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        sample["image"] = "image.png"
        if kind == "sd-inpaint":
            sample["mask_image"] = "mask_image.png"
        sample["strength"] = 1.0
    if kind != "sd-img2img":
        sample |= {"height": 64, "width": 64}
    path = tmp_path / "recipe.yaml"
    lines = "".join(f"  {key}: {value}\n" for key, value in sample.items())
    path.write_text(f"compilekit: 1\ntarget: {{device: cpu}}\nsample:\n{lines}steps:{steps}")
    return ck.Recipe.load(path)


def kinds() -> list[Any]:
    full = [kind for kind in TINY_KINDS if kind not in ONE_PER_FAMILY]
    return [*ONE_PER_FAMILY, *(pytest.param(kind, marks=pytest.mark.full) for kind in full)]


@pytest.mark.parametrize("kind", kinds())
def test_without_rounding_steps_the_pictures_are_the_same(kind, tmp_path):
    applied = ck.apply(recipe(kind, EXACT, tmp_path), tiny_pipeline(kind), progress=False)
    errors = {m.entry: m.error for m in applied.report.final}
    assert errors[denoiser(kind)] < 1e-4
    assert applied.report.end_to_end.psnr > 40
    assert applied.report.steps[-1].details["recompiles"] == []


@pytest.mark.parametrize("kind", kinds())
def test_with_bfloat16_and_int8_the_numbers_stay_in_the_budget(kind, tmp_path):
    applied = ck.apply(recipe(kind, LOSSY, tmp_path), tiny_pipeline(kind), progress=False)
    errors = {m.entry: m.error for m in applied.report.final}
    assert 1e-4 < errors[denoiser(kind)] < 0.1
    assert applied.report.end_to_end.psnr > 25
    assert applied.report.parameter_bytes > 1.9 * applied.report.steps[-1].parameter_bytes


@pytest.mark.full
@pytest.mark.parametrize("kind", ["sd", "flux", "sdxl", "sd3", "pixart"])
@pytest.mark.parametrize("steps", [EXACT, LOSSY], ids=["exact", "lossy"])
def test_inductor_gives_the_same_pictures(kind, steps, tmp_path):
    planned = recipe(kind, steps, tmp_path, backend="inductor")
    applied = ck.apply(planned, tiny_pipeline(kind), progress=False)
    limit = 1e-4 if steps is EXACT else 0.1
    assert {m.entry: m.error for m in applied.report.final}[denoiser(kind)] < limit


def test_a_plain_text_encoder_takes_the_steps_that_apply_to_it():
    steps = """
      - precision: {dtype: bfloat16}
      - torchao_int8: {components: [model]}
      - torch_compile: {components: [model], backend: aot_eager}
    """
    planned = ck.Recipe.parse(f"compilekit: 1\ntarget: {{device: cpu}}\nsteps:{steps}")
    ids = torch.randint(5, 50, (4, 77), generator=torch.Generator().manual_seed(0))
    encoder = tiny_text_encoder()
    applied = ck.apply(planned, encoder, inputs={"input_ids": ids}, progress=False)
    assert applied.pipeline is encoder
    assert 1e-4 < applied.report.final[0].error < 0.1


@pytest.fixture(scope="module")
def finished() -> Any:
    """A pipeline after all five steps."""
    steps = ck.Recipe.from_steps(
        "precision{dtype=bfloat16}, channels_last{components=[unet, vae]}, "
        "qkv_fusion{components=[unet, vae]}, torchao_int8{components=unet}, "
        "torch_compile{components=[unet, vae.decode], backend=eager}",
        sample={"prompt": "a cat", "height": 32, "width": 32, "num_inference_steps": 2},
    )
    return ck.apply(steps, tiny_pipeline("sd"), progress=False).pipeline


def draw(pipeline: Any, **arguments: Any) -> Any:
    keywords = {"prompt": "a dog", "height": 32, "width": 32, "num_inference_steps": 2}
    generator = torch.Generator().manual_seed(1)
    keywords |= {"generator": generator, "output_type": "np", **arguments}
    return pipeline(**keywords).images


@pytest.mark.full
def test_another_prompt_and_another_batch_size_go_on_working(finished):
    images = draw(finished, prompt=["a dog", "a bird", "a fish"])
    assert images.shape == (3, 32, 32, 3)
    assert np.isfinite(images).all()


@pytest.mark.full
def test_moving_the_guidance_scale_changes_the_picture(finished):
    assert abs(draw(finished, guidance_scale=1.0) - draw(finished, guidance_scale=9.0)).max() > 0


def test_callbacks_are_called_at_each_step(finished):
    steps = []

    def note(_: Any, step: int, *rest: Any) -> dict[str, Any]:
        steps.append(step)
        return rest[-1]

    draw(finished, callback_on_step_end=note)
    assert steps == [0, 1]


def test_another_scheduler_goes_on_working(finished):
    from diffusers import DDPMScheduler

    before = finished.scheduler
    try:
        finished.scheduler = DDPMScheduler.from_config(before.config)
        assert np.isfinite(draw(finished)).all()
    finally:
        finished.scheduler = before


def test_a_component_that_the_index_lacks_is_reported_before_weights_are_read(tmp_path):
    folder = tmp_path / "model"
    tiny_pipeline("sd").save_pretrained(folder)
    for weights in folder.rglob("*.safetensors"):
        weights.write_bytes(b"not read")
    steps = ck.Recipe.from_steps("channels_last{components=[transformer]}")
    with pytest.raises(ck.RecipeError) as caught:
        ck.apply(steps, str(folder), progress=False)
    assert 'StableDiffusionPipeline has no component "transformer"' in str(caught.value)


def test_weights_that_cannot_be_read_are_a_plain_error(tmp_path):
    folder = tmp_path / "model"
    tiny_pipeline("sd").save_pretrained(folder)
    for weights in folder.rglob("*.safetensors"):
        weights.write_bytes(b"not weights")
    steps = ck.Recipe.from_steps("channels_last{components=[unet]}")
    with pytest.raises(ck.ModelError, match="cannot be loaded"):
        ck.apply(steps, str(folder), progress=False)


def test_a_folder_that_holds_no_pipeline_is_a_plain_error(tmp_path):
    with pytest.raises(ck.ModelError, match=r"is no pipeline: it holds no model_index\.json"):
        ck.apply(ck.Recipe.from_steps("precision{dtype=bfloat16}"), str(tmp_path), progress=False)


def test_an_argument_that_the_pipeline_does_not_take_is_named():
    steps = ck.Recipe.from_steps("precision{dtype=bfloat16}", sample={"promt": "a cat"})
    with pytest.raises(ck.ModelError, match=r'sample\.promt: .*Did you mean "prompt"\?'):
        ck.apply(steps, tiny_pipeline("sd"), progress=False)


def test_a_picture_that_is_not_beside_the_recipe_is_reported_at_its_line(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "compilekit: 1\ntarget: {device: cpu}\nsample:\n  image: gone.png\n"
        "steps: [{precision: {dtype: bfloat16}}]\n"
    )
    with pytest.raises(ck.RecipeError, match=r"recipe\.yaml:4:10: sample\.image: .*no such file"):
        ck.apply(path, tiny_pipeline("sd-img2img"), progress=False)
