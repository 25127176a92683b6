"""`memory`: what its plans allow, and that weights which are cast are really stored smaller."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch
from support import SAMPLE, draw
from torch import nn

import compilekit as ck
from compilekit.model import parameter_bytes
from compilekit.testing import tiny_pipeline

CAST = "memory{components=unet, layerwise={storage: float8_e4m3fn}}"


def apply(steps, pipeline="sd"):
    pipe = tiny_pipeline(pipeline) if isinstance(pipeline, str) else pipeline
    return ck.apply(ck.Recipe.from_steps(steps, sample=SAMPLE), pipe, progress=False)


def planned(steps, device="cpu", for_="apply"):
    return ck.plan(ck.Recipe.from_steps(steps, device=device, sample=SAMPLE), for_=for_)


def problem(steps, device="cpu", for_="apply"):
    """What the plan objects to, without the place."""
    with pytest.raises(ck.RecipeError) as raised:
        planned(steps, device, for_)
    return re.sub(r"^(\S+:\d+:\d+: )", "", str(raised.value), flags=re.MULTILINE)


def stored(module):
    return Counter(str(weight.dtype).removeprefix("torch.") for weight in module.parameters())


# Layerwise casting


def test_cast_weights_are_stored_small_and_computed_with_as_before():
    before = tiny_pipeline("sd").unet
    done = apply(CAST)
    (step,), unet = done.report.steps, done.pipeline.unet
    assert len(step.matched["unet"]) == 83
    for path in step.matched["unet"]:
        assert unet.get_submodule(path).weight.dtype == torch.float8_e4m3fn
    assert unet.dtype == torch.float32
    assert parameter_bytes(unet) < 0.3 * parameter_bytes(before)
    assert done.report.parameter_bytes - step.parameter_bytes == (
        parameter_bytes(before) - parameter_bytes(unet)
    )
    assert 1e-3 < done.report.final[0].error < 0.12
    assert (step.state, done.report.not_savable) == ({}, {})


@pytest.mark.parametrize(
    ("storage", "least", "most"),
    [("float8_e5m2", 0.12, 0.3), ("bfloat16", 2e-3, 2e-2), ("float16", 2e-4, 2e-3)],
)
def test_the_error_is_that_of_the_dtype_of_storage(storage, least, most):
    steps = f"memory{{components=unet, budget=0.3, layerwise={{storage: {storage}}}}}"
    assert least < apply(steps).report.final[0].error < most


@pytest.mark.parametrize(
    "family", ["sd", *(pytest.param(each, marks=pytest.mark.full) for each in ("sd3", "flux"))]
)
def test_every_component_can_be_cast_and_a_folder_holds_the_same_picture(family, tmp_path):
    done = apply("memory{layerwise={storage: float8_e4m3fn}}", family)
    components = {
        name: part for name, part in done.pipeline.components.items() if has_weights(part)
    }
    assert set(done.report.steps[0].matched) == set(components)
    assert all("float8_e4m3fn" in stored(part) for part in components.values())
    done.pipeline.save_pretrained(tmp_path)
    again = type(done.pipeline).from_pretrained(tmp_path, local_files_only=True)
    assert stored(again.vae).keys() == {"float32"}
    assert abs(draw(again) - draw(done.pipeline)).max() < 1e-5


def has_weights(part):
    return isinstance(part, nn.Module)


def test_a_text_encoder_keeps_the_weight_that_pipelines_read_its_dtype_from():
    done = apply("memory{components=text_encoder_2, layerwise={storage: float8_e4m3fn}}", "flux")
    assert done.pipeline.text_encoder_2.dtype == torch.float32
    skipped = done.report.steps[0].skipped
    assert {path for path, why in skipped.items() if why.startswith("pipelines take")} == {
        "text_encoder_2.shared",
        "text_encoder_2.encoder.embed_tokens",
    }
    assert {path for path, why in skipped.items() if why == "diffusers leaves it as it is"} == {
        f"text_encoder_2.encoder.block.{block}.layer.1.DenseReluDense.wo" for block in range(2)
    }


def test_what_is_excluded_stays_beside_what_diffusers_leaves_alone():
    done = apply(
        "memory{components=transformer, layerwise={storage: float8_e4m3fn, "
        "exclude: ['*.ff.*', single_transformer_blocks.0]}}",
        "flux",
    )
    by_diffusers = tiny_pipeline("flux").transformer
    by_diffusers.enable_layerwise_casting(torch.float8_e4m3fn)
    wanted = {
        path
        for path, part in by_diffusers.named_modules()
        if getattr(getattr(part, "weight", None), "dtype", None) == torch.float8_e4m3fn
        and ".ff." not in path
        and not path.startswith("single_transformer_blocks.0.")
    }
    (step,) = done.report.steps
    assert set(step.matched["transformer"]) == wanted
    assert step.skipped["transformer.transformer_blocks.0.ff.net.2"] == '`exclude` has "*.ff.*"'
    assert step.skipped["transformer.single_transformer_blocks.0.proj_mlp"] == (
        '`exclude` has "single_transformer_blocks.0"'
    )
    assert step.skipped["transformer.norm_out.linear"] == "diffusers leaves it as it is"


def test_adapters_and_quantised_layers_stay_as_they_are():
    from peft import LoraConfig

    pipe = tiny_pipeline("sd")
    config = LoraConfig(r=4, target_modules=["to_q"], init_lora_weights=False)
    pipe.unet.add_adapter(config)
    steps = "torchao_int8{components=unet, include=['*.ff.*']}, "
    steps += "memory{components=unet, layerwise={storage: float8_e4m3fn, exclude: [conv_out]}}"
    (_, step) = apply(steps, pipe).report.steps
    reasons = {
        path.rpartition("transformer_blocks.0.")[2]: why for path, why in step.skipped.items()
    }
    assert reasons["attn1.to_q.lora_A.default"] == "diffusers leaves it as it is"
    assert reasons["ff.net.2"] == "it is quantised"
    assert pipe.unet.mid_block.attentions[0].transformer_blocks[
        0
    ].attn1.to_q.base_layer.weight.dtype == (torch.float8_e4m3fn)


def test_casting_is_to_the_dtype_that_the_component_computes_in():
    with pytest.raises(ck.StepError) as raised:
        apply("memory{components=unet, layerwise={storage: float8_e4m3fn, compute: bfloat16}}")
    assert str(raised.value) == (
        "steps[0].memory: unet: layers that are left alone compute in float32, and so must the "
        "others: leave `compute` out, or put `precision: {dtype: bfloat16}` before the step"
    )
    steps = (
        "precision{dtype=bfloat16}, memory{layerwise={storage: float8_e4m3fn, compute: bfloat16}}"
    )
    done = apply(steps)
    assert done.pipeline.unet.dtype == torch.bfloat16
    assert done.report.final[0].error < 0.15


def test_weights_that_are_stored_so_already_match_nothing():
    steps = "precision{dtype=bfloat16}, memory{components=unet, layerwise={storage: bfloat16}}"
    with pytest.raises(ck.NoMatchError, match="unet: its weights are bfloat16 already"):
        apply(steps)


def test_layers_that_are_cast_by_hand_are_not_cast_again():
    pipe = tiny_pipeline("sd")
    pipe.unet.enable_layerwise_casting(torch.float8_e4m3fn)
    with pytest.raises(ck.StepError, match=r"unet: its layers are cast already; leave the step"):
        apply(CAST, pipe)


# Plans

NO_ACCELERATOR = (
    'moves weights to an accelerator and back, and the target "cpu" has none: leave the step out'
)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("memory{offload=model}", f"offload: model {NO_ACCELERATOR}"),
        ("memory{offload=sequential}", f"offload: sequential {NO_ACCELERATOR}"),
        (
            "memory{offload=group}",
            'offload: group moves nothing on the target "cpu", which computes where the weights '
            "wait: name a `folder` under `group:` to keep them on disk, or leave the step out",
        ),
        (
            "memory{offload=group, group={folder: there, stream: true}}",
            'group.stream: the target "cpu" has no streams; leave it out',
        ),
    ],
)
def test_what_is_of_no_use_on_a_cpu_is_refused_with_the_reason(steps, message):
    assert problem(steps) == f"steps[0].memory: {message}"
    assert planned(steps, "cuda").steps


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            CAST,
            "layerwise: compiled code cannot cast the weights that it reads, so a bundle has no "
            "use for it: use it with apply",
        ),
        (
            "memory{offload=model}",
            "offload: a bundle's compiled code keeps its weights where it reads them: use it with "
            "apply, or offload the loaded pipeline by hand where nothing is compiled",
        ),
    ],
)
def test_a_build_is_refused_with_the_reason(steps, message):
    assert problem(steps, "cuda", "build") == f"steps[0].memory: {message}"


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("memory", "say `offload` or `layerwise`; both are two steps, `layerwise` first"),
        (
            "memory{offload=model, layerwise={storage: bfloat16}}",
            "say `offload` or `layerwise`; both are two steps, `layerwise` first",
        ),
        ("memory{offload=model, group={level: leaf}}", "`group` is for `offload: group`"),
        (
            "memory{offload=group, group={level: leaf, blocks: 2}}",
            "blocks is for `level: block`: single layers move one by one",
        ),
        (
            "memory{offload=group, group={stream: true, blocks: 2}}",
            "with `stream` one block moves at a time: leave `blocks` out",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(steps, message):
    assert message in problem(steps, "cuda")


COMPILE = "torch_compile{components=unet}"
INT8 = "torchao_int8{components=unet}"
ON_DISK = "memory{components=unet, offload=group, group={folder: there}}"


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            f"{COMPILE}, memory{{offload=model}}",
            "steps[1].memory must come before steps[0].torch_compile on the pipeline: it conflicts "
            'with "compiled", which steps[0].torch_compile gives',
        ),
        (
            f"{COMPILE}, {CAST}",
            "steps[1].memory must come before steps[0].torch_compile on unet: it changes dtype, "
            "which compiled code does not see",
        ),
        (
            f"memory{{offload=model}}, {CAST}",
            "steps[1].memory must come before steps[0].memory on unet: it conflicts with "
            '"offloaded", which steps[0].memory gives',
        ),
        (
            f"{ON_DISK}, memory{{offload=model}}",
            'steps[1].memory: the pipeline is "offloaded" already, by steps[0].memory; leave one '
            "of them out",
        ),
        (
            f"{INT8}, {ON_DISK}",
            "steps[1].memory must come before steps[0].torchao_int8 on unet: it conflicts with "
            '"quantised_weights", which steps[0].torchao_int8 gives',
        ),
        (
            f"{INT8}, memory{{offload=group}}",
            "steps[1].memory must come before steps[0].torchao_int8 on the pipeline: it conflicts "
            'with "quantised_weights", which steps[0].torchao_int8 gives',
        ),
        (
            "memory{offload=model}, qkv_fusion{components=unet}",
            "steps[1].qkv_fusion must come before steps[0].memory on unet: it needs "
            '"plain_linear_weights", which steps[0].memory removes',
        ),
    ],
)
def test_the_order_is_checked(steps, message):
    assert message in problem(steps, "cuda")


@pytest.mark.parametrize("offload", ["model", "sequential", "group, group={level: leaf}"])
def test_quantised_weights_move_with_whole_components_and_single_layers(offload):
    quantised = "torchao{components=unet, config=int8_weight}"
    assert planned(f"{quantised}, memory{{offload={offload}}}", "cuda").steps
