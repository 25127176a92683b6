"""`scheduler` (D2): another scheduler, with the config of the one that is there."""

from __future__ import annotations

import json

import pytest
from support import SAMPLE, draw
from typer.testing import CliRunner

import compilekit as ck
from compilekit.cli import app
from compilekit.testing import tiny_pipeline

DPM = "scheduler{name=DPMSolverMultistepScheduler}"


def apply(steps, family="sd"):
    recipe = ck.Recipe.from_steps(steps, sample=SAMPLE)
    return ck.apply(recipe, tiny_pipeline(family), progress=False)


def test_d2_a_swap_is_what_diffusers_itself_would_do():
    from diffusers import DPMSolverMultistepScheduler

    done = apply(f"{DPM}, channels_last{{components=unet}}")
    by_hand = tiny_pipeline("sd")
    by_hand.scheduler = DPMSolverMultistepScheduler.from_config(by_hand.scheduler.config)
    assert abs(draw(done.pipeline) - draw(by_hand)).max() < 1e-4
    assert abs(draw(done.pipeline) - draw(tiny_pipeline("sd"))).max() > 1e-2
    # It means to change the picture, so it is in both pictures that are compared.
    assert done.report.end_to_end.psnr > 60
    assert done.report.steps[0].matched["scheduler"][0].endswith("-> DPMSolverMultistepScheduler")


def test_d2_settings_reach_it_and_are_saved(tmp_path):
    steps = "scheduler{name=DPMSolverMultistepScheduler, config={use_karras_sigmas: true}}"
    done = apply(steps)
    assert done.pipeline.scheduler.config.use_karras_sigmas is True
    done.pipeline.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    assert (saved["_class_name"], saved["use_karras_sigmas"]) == (
        "DPMSolverMultistepScheduler",
        True,
    )


def test_d2_a_bundle_has_it(exporter, tmp_path, load):
    recipe = ck.Recipe.from_steps(
        f"{DPM}, eager_export{{components=unet, modules=[mid_block]}}", sample=SAMPLE
    )
    built = ck.build(recipe, tiny_pipeline("sd"), tmp_path / "made", host=exporter, progress=False)
    pipe = load(built.path)
    assert type(pipe.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert abs(draw(pipe) - built.after.images).max() < 1e-4


def test_d2_what_is_not_compatible_is_named_with_what_is():
    with pytest.raises(ck.StepError, match=r"FlowMatch.* cannot stand in for .*DDIMScheduler"):
        apply("scheduler{name=FlowMatchEulerDiscreteScheduler}")
    with pytest.raises(ck.StepError, match=r"has no setting karras; it has .*use_karras_sigmas"):
        apply("scheduler{name=DPMSolverMultistepScheduler, config={karras: true}}")


def test_d2_it_comes_before_what_is_compared():
    with pytest.raises(ck.RecipeError, match=r"must come before steps\[0\]\.channels_last"):
        ck.plan(ck.Recipe.from_steps(f"channels_last{{components=unet}}, {DPM}"))


def test_a_module_has_no_scheduler():
    import torch

    recipe = ck.Recipe.from_steps(DPM)
    with pytest.raises(ck.StepError, match="a Linear has no scheduler"):
        ck.apply(recipe, torch.nn.Linear(8, 8), inputs={"input": torch.ones(1, 8)}, progress=False)


def test_d2_inspect_lists_what_is_compatible_with_a_saved_pipeline(tmp_path):
    tiny_pipeline("sd").save_pretrained(tmp_path)
    run = CliRunner().invoke
    shown = run(app, ["inspect", str(tmp_path)])
    assert shown.exit_code == 0
    assert "  unet: diffusers.UNet2DConditionModel" in shown.output
    assert "\n  DPMSolverMultistepScheduler\n" in shown.output
    found = json.loads(run(app, ["inspect", str(tmp_path), "--json"]).stdout)
    assert found["class"] == "StableDiffusionPipeline"
    assert "DDIMScheduler" in found["compatible"]
    (tmp_path / "model_index.json").write_text("{")
    broken = run(app, ["inspect", str(tmp_path)])
    assert (broken.exit_code, "model_index.json: cannot be read" in broken.output) == (2, True)
