"""Each built-in step on a tiny pipeline: what it reports, and saving afterwards."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import compilekit as ck
from compilekit.measure import state
from compilekit.testing import tiny_pipeline


def applied(steps: str, sample: dict[str, object], pipeline: Any = None) -> ck.Applied:
    recipe = ck.Recipe.from_steps(steps, sample=sample)
    return ck.apply(recipe, pipeline or tiny_pipeline("sd"), progress=False)


def picture(pipeline: Any, sample: dict[str, Any]) -> Any:
    arguments = {key: value for key, value in sample.items() if key != "seed"}
    generator = torch.Generator().manual_seed(7)
    return pipeline(**arguments, generator=generator, output_type="np").images


def reloaded(pipeline: Any, folder: Path, **keywords: Any) -> Any:
    from diffusers import DiffusionPipeline

    pipeline.save_pretrained(folder)
    again = DiffusionPipeline.from_pretrained(folder, safety_checker=None, **keywords)
    again.set_progress_bar_config(disable=True)
    return again


def test_channels_last_converts_rank_4_weights_and_saves_as_before(sample, tmp_path):
    done = applied("channels_last{components=[unet, vae]}", sample)
    weight = done.pipeline.unet.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    (step,) = done.report.steps
    assert set(step.matched) == {"unet", "vae"}
    assert "conv_in.weight" in step.changed["unet"]
    again = reloaded(done.pipeline, tmp_path)
    assert abs(picture(again, sample) - picture(done.pipeline, sample)).max() < 1e-4


def test_channels_last_leaves_rank_5_weights_alone():
    video = torch.nn.Sequential(torch.nn.Conv3d(3, 8, 3), torch.nn.Flatten(2))
    recipe = ck.Recipe.from_steps("channels_last{components=model, allow_no_match=true}")
    inputs = {"input": torch.randn(1, 3, 4, 8, 8)}
    report = ck.apply(recipe, video, inputs=inputs, progress=False).report
    assert report.steps[0].matched == {"model": []}
    assert video[0].weight.is_contiguous()


def test_precision_casts_the_whole_pipeline_and_saves_as_such(sample, tmp_path):
    done = applied("precision{dtype=bfloat16}", sample)
    assert {p.dtype for p in done.pipeline.unet.parameters()} == {torch.bfloat16}
    assert done.report.final[0].error < 0.05
    again = reloaded(done.pipeline, tmp_path, dtype=torch.bfloat16)
    assert abs(picture(again, sample) - picture(done.pipeline, sample)).max() < 1e-2


@pytest.mark.parametrize("components", ["unet", "[text_encoder, vae]"])
def test_precision_of_some_components_leaves_the_pipeline_working(sample, components):
    done = applied(f"precision{{components={components}, dtype=bfloat16}}", sample)
    assert done.report.end_to_end.psnr > 30
    with pytest.raises(ck.SaveError, match=r"steps\[0\]\.precision casts inputs"):
        done.pipeline.save_pretrained("unused")


def test_precision_keeps_in_float32_what_the_class_keeps_there():
    class Picky(torch.nn.Module):
        _keep_in_fp32_modules = ("norm",)

        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.LayerNorm(8)
            self.linear = torch.nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(self.norm(x.float()).to(self.linear.weight.dtype))

    net = Picky()
    recipe = ck.Recipe.from_steps("precision{dtype=bfloat16}")
    report = ck.apply(recipe, net, inputs={"x": torch.randn(4, 8)}, progress=False).report
    assert net.norm.weight.dtype == torch.float32
    assert net.linear.weight.dtype == torch.bfloat16
    assert sorted(report.steps[0].skipped) == ["model.norm.bias", "model.norm.weight"]


def test_precision_that_says_nothing_is_refused():
    with pytest.raises(ck.RecipeError, match="say which `dtype`, or `tf32: true`"):
        ck.plan(ck.Recipe.from_steps("precision"))


def test_tf32_is_refused_where_there_is_none():
    with pytest.raises(ck.RecipeError, match='tf32 is for the target "cuda", not "cpu"'):
        ck.plan(ck.Recipe.from_steps("precision{tf32=true}"))


def test_qkv_fusion_frees_the_separate_layers_and_refuses_to_save(sample, tmp_path):
    done = applied("qkv_fusion{components=[unet, vae]}", sample)
    names = {name.rpartition(".")[2] for name, _ in done.pipeline.unet.named_modules()}
    assert "to_qkv" in names
    assert not names & {"to_k", "to_v"}
    (step,) = done.report.steps
    assert step.parameter_bytes <= done.report.parameter_bytes
    assert done.report.final[0].error < 1e-4
    for owner in (done.pipeline, done.pipeline.unet):
        with pytest.raises(ck.SaveError, match=r"steps\[0\]\.qkv_fusion changed"):
            owner.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_fused_projections_cannot_be_undone_and_say_so(sample):
    done = applied("qkv_fusion{components=unet}", sample)
    with pytest.raises(ck.StepError, match="qkv_fusion freed the separate projections"):
        done.pipeline.unet.unfuse_qkv_projections()


def test_qkv_fusion_of_what_cannot_be_fused_matches_nothing(sample):
    with pytest.raises(ck.NoMatchError, match="a CLIPTextModel cannot fuse its projections"):
        applied("qkv_fusion{components=text_encoder}", sample)


def test_int8_reports_what_it_quantised_and_why_the_rest_was_left(sample, tmp_path):
    before = state.snapshot()
    done = applied("torchao_int8{components=unet, exclude=['*.to_out.*']}", sample)
    (step,) = done.report.steps
    assert step.matched["unet"]
    assert step.skipped["unet.time_embedding.linear_2"] == "2 rows a call, fewer than min_rows 17"
    assert any(why == '`exclude` has "*.to_out.*"' for why in step.skipped.values())
    assert step.parameter_bytes < done.report.parameter_bytes
    assert 1e-4 < step.measurements[0].error < 0.1
    changed = before.diff(state.snapshot())
    assert [key for key in changed if key.startswith("torch._inductor")] == []
    with pytest.raises(ck.SaveError, match=r"steps\[0\]\.torchao_int8 changed"):
        done.pipeline.save_pretrained(tmp_path)


def test_int8_with_a_filter_that_nothing_passes_names_reasons(sample):
    with pytest.raises(ck.NoMatchError, match="fewer than min_features 9999"):
        applied("torchao_int8{components=unet, min_features=9999}", sample)


@pytest.mark.full
def test_compiled_components_save_as_stock_ones(sample, tmp_path):
    done = applied("torch_compile{components=[unet, vae.decode], backend=eager}", sample)
    assert done.report.steps[0].details["graphs"] == 2
    again = reloaded(done.pipeline, tmp_path)
    assert abs(picture(again, sample) - picture(done.pipeline, sample)).max() < 1e-4


@pytest.mark.full
def test_the_process_is_as_before_after_all_steps(sample):
    before = state.snapshot()
    applied(
        "precision{dtype=bfloat16}, channels_last{components=unet}, qkv_fusion{components=unet}, "
        "torchao_int8{components=unet}, torch_compile{components=unet, backend=eager}",
        sample,
    )
    # The first compilation of a process settles caches of its own in the environment.
    changed = before.diff(state.snapshot())
    assert {k for k in changed if not k.startswith("os.environ.")} == set()
    assert "TORCHDYNAMO_DISABLE" not in os.environ


def test_a_run_that_fails_leaves_nothing_that_saves_as_if_it_were_whole(sample, tmp_path):
    pipeline = tiny_pipeline("sd")
    with pytest.raises(ck.VerificationError):
        applied(
            "qkv_fusion{components=unet}, precision{dtype=bfloat16, budget=0.000001}",
            sample,
            pipeline,
        )
    with pytest.raises(ck.SaveError, match=r"steps\[0\]\.qkv_fusion"):
        pipeline.save_pretrained(tmp_path)


def test_a_second_cast_moves_the_door_of_the_first(sample):
    steps = (
        "precision{components=unet, dtype=bfloat16}, precision{components=[unet, vae], "
        "dtype=float16}, precision{components=[unet, vae], dtype=bfloat16}"
    )
    done = applied(steps, sample)
    assert {p.dtype for p in done.pipeline.unet.parameters()} == {torch.bfloat16}
    assert done.report.end_to_end.psnr > 25


def test_a_cast_to_the_dtype_that_is_there_gives_equal_images_also_as_json(sample):
    report = applied("precision{dtype=float32}", sample).report
    assert report.steps[0].changed == {name: [] for name in report.steps[0].components}
    assert json.loads(report.to_json())["end_to_end"]["psnr"] == "Infinity"
