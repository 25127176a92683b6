"""Tiny pipelines of many classes through every step that keeps results, and through a build."""

from __future__ import annotations

import pytest
from families import STEPS, built, sample_of, tried

import compilekit as ck
from compilekit.testing import TINY_CLASSES, TINY_KINDS, tiny_pipeline

EVERY = [*TINY_KINDS, *TINY_CLASSES]

TELLING = [
    ("LTXPipeline", "qkv_fusion", "cannot use fused layers"),
    ("IFPipeline", "qkv_fusion", "cannot use fused layers"),
    ("StableDiffusion3ControlNetPipeline", "qkv_fusion", ""),
    ("StableDiffusionPAGPipeline", "qkv_fusion", "the pipeline puts a PAG"),
    ("FluxControlNetPipeline", "qkv_fusion", ""),
    ("WanPipeline", "qkv_fusion", ""),
    ("AnimateDiffPipeline", "qkv_fusion", ""),
    ("KandinskyV22PriorPipeline", "qkv_fusion", ""),
    ("MarigoldDepthPipeline", "channels_last", ""),
    ("WanPipeline", "channels_last", ""),
    ("StableDiffusionXLControlNetUnionPipeline", "torch_compile", ""),
    ("AuraFlowPipeline", "torch_compile", ""),
    ("HunyuanDiTPipeline", "precision", ""),
]
"""A step on a pipeline, and a part of the reason why it leaves something alone, if it does."""

OWN = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore:In CPU autocast, but the target dtype:UserWarning"
)
"""Warnings that pipelines of diffusers raise on themselves."""


@OWN
@pytest.mark.parametrize(("kind", "step", "reason"), TELLING)
def test_a_step_breaks_nothing_and_says_what_it_leaves_alone(kind, step, reason, tmp_path):
    done = tried(kind, step, tmp_path)
    assert done.moved <= done.limit
    assert reason in (done.refused or " ".join(done.skipped.values()))


@pytest.mark.full
@OWN
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", EVERY)
def test_every_step_leaves_every_pipeline_whole(kind, step, tmp_path):
    done = tried(kind, step, tmp_path)
    assert done.moved <= done.limit


@pytest.mark.full
@OWN
@pytest.mark.parametrize("kind", EVERY)
def test_a_block_of_every_denoiser_is_built_and_loaded(kind, tmp_path):
    done = built(kind, tmp_path)
    assert done.moved <= done.limit


def test_a_pipeline_that_changes_its_denoiser_at_each_call_is_refused_when_built(tmp_path):
    refused = built("StableDiffusionPAGPipeline", tmp_path).refused
    assert "each call of the pipeline changes what is compiled: SealedError" in refused


def test_a_fused_form_that_leaves_something_out_is_not_taken(sample):
    pipeline = tiny_pipeline("sd3")
    # The fused code of diffusers forgets these norms.
    config = {k: v for k, v in pipeline.transformer.config.items() if k[0] != "_"}
    transformer = type(pipeline.transformer)(**config | {"qk_norm": "rms_norm"})
    pipeline.transformer = transformer.eval()
    recipe = ck.Recipe.from_steps("qkv_fusion{components=transformer}", sample=sample)
    with pytest.raises(ck.NoMatchError, match="its fused form moves its output by"):
        ck.apply(recipe, pipeline, progress=False)


def test_fused_attention_cannot_be_unfused_one_by_one(sample):
    recipe = ck.Recipe.from_steps("qkv_fusion{components=unet}", sample=sample)
    unet = ck.apply(recipe, tiny_pipeline("sd"), progress=False).pipeline.unet
    attention = next(m for m in unet.modules() if hasattr(m, "to_qkv"))
    with pytest.raises(ck.StepError, match="load it again"):
        attention.unfuse_projections()


def test_a_pipeline_whose_strength_is_below_one_takes_a_warm_up_step(tmp_path):
    sample = sample_of("sd-img2img", tmp_path)
    del sample["strength"]
    step = "qkv_fusion{components=unet}"
    recipe = ck.Recipe.from_steps(step, sample=sample, device="cpu")
    done = ck.apply(recipe, tiny_pipeline("sd-img2img"), progress=False)
    assert done.report.steps[0].matched["unet"]
