"""`scheduler` (A10, D2): another scheduler, with the config of the one that is there."""

from __future__ import annotations

import copy
import json

import diffusers
import pytest
import torch
from support import RESNET, SAMPLE, draw
from typer.testing import CliRunner

import compilekit as ck
from compilekit.cli import app
from compilekit.testing import tiny_pipeline

DPM = "scheduler{name=DPMSolverMultistepScheduler}"


def apply(steps, family="sd"):
    recipe = ck.Recipe.from_steps(steps, sample=SAMPLE)
    return ck.apply(recipe, tiny_pipeline(family), progress=False)


def test_d2_a_swap_is_what_diffusers_itself_would_do():
    done = apply(f"{DPM}, channels_last{{components=unet}}")
    by_hand = tiny_pipeline("sd")
    by_hand.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(by_hand.scheduler.config)
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


@pytest.mark.full
def test_d2_a_bundle_has_it(exporter, tmp_path, load):
    recipe = ck.Recipe.from_steps(f"{DPM}, {RESNET}", sample=SAMPLE)
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
    recipe = ck.Recipe.from_steps(DPM)
    with pytest.raises(ck.StepError, match="this Linear has no scheduler"):
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


ON_CPU = "scheduler{on_cpu=true}"
SCHEDULERS = [
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LCMScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
]


def on_cpu(scheduler):
    """The scheduler as the step leaves it."""
    pipe = tiny_pipeline("sd")
    pipe.scheduler = scheduler
    recipe = ck.Recipe.from_steps(ON_CPU, sample=SAMPLE)
    return ck.apply(recipe, pipe, progress=False).pipeline.scheduler


def walked(scheduler, device):
    """What a loop of steps comes to."""
    torch.manual_seed(0)
    scheduler.set_timesteps(4, device=device)
    x = torch.ones(1, 4, 8, 8, device=device)
    for t in scheduler.timesteps:
        scale = getattr(scheduler, "scale_model_input", lambda sample, _: sample)
        x = scheduler.step(scale(x, t) * 0.1, t, x).prev_sample
    return x


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a10_no_step_reads_a_value_from_the_device(name):
    from compilekit_plugins.scheduler.on_cpu import keep_on_cpu

    # Tensors of the device "meta" have no values: whoever reads one fails.
    scheduler = getattr(diffusers, name)()
    with pytest.raises((RuntimeError, NotImplementedError)):
        walked(scheduler, "meta")
    keep_on_cpu(scheduler)
    assert walked(scheduler, "meta").device.type == "meta"
    assert scheduler.timesteps.device.type == "meta", "pipelines see them where they were"
    assert torch.equal(walked(scheduler, "cpu"), walked(getattr(diffusers, name)(), "cpu"))
    assert walked(copy.deepcopy(scheduler), "meta").device.type == "meta"


def test_a10_pipelines_draw_what_they_drew_and_save_what_they_saved(tmp_path):
    done = apply(ON_CPU)
    assert abs(draw(done.pipeline) - draw(tiny_pipeline("sd"))).max() == 0
    assert done.report.steps[0].matched == {"scheduler": ["tables and timesteps on the CPU"]}
    done.pipeline.save_pretrained(tmp_path)
    again = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path)
    assert type(again.scheduler) is type(tiny_pipeline("sd").scheduler)
    assert isinstance(done.pipeline.scheduler, type(again.scheduler))


def test_a10_timesteps_that_somebody_else_put_there_are_used():
    scheduler = on_cpu(diffusers.DDIMScheduler())
    scheduler.set_timesteps(4)
    scheduler.timesteps = torch.tensor([900, 500])
    x = torch.ones(1, 4, 8, 8)
    plain = diffusers.DDIMScheduler()
    plain.set_timesteps(4)
    for t in scheduler.timesteps:
        wanted = plain.step(x * 0.1, t, x).prev_sample
        assert torch.equal(scheduler.step(x * 0.1, t, x).prev_sample, wanted)


def test_a10_a_loaded_bundle_has_it_too(exporter, tmp_path, load):
    steps = f"{ON_CPU}, {RESNET}"
    recipe = ck.Recipe.from_steps(steps, sample=SAMPLE)
    ck.build(recipe, tiny_pipeline("sd"), tmp_path / "made", host=exporter, progress=False)
    assert walked(load(tmp_path / "made").scheduler, "meta").device.type == "meta"


def test_something_must_be_asked_for():
    with pytest.raises(ck.RecipeError, match="say which scheduler by `name`"):
        ck.plan(ck.Recipe.from_steps("scheduler"))
