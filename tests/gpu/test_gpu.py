"""What only a GPU can show. `make test-gpu` runs these."""

from __future__ import annotations

import sys

import pytest
import torch
from support import SAMPLE, draw
from torch import nn

import compilekit as ck
from compilekit.testing import tiny_pipeline

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def applied(steps: str, sample: dict[str, object], pipeline: object = None) -> ck.Applied:
    recipe = ck.Recipe.from_steps(steps, device="cuda", sample=sample)
    return ck.apply(recipe, pipeline or tiny_pipeline("sd"), progress=False)


@pytest.mark.usefixtures("float32_convolutions")
def test_a_pipeline_is_moved_to_the_target_and_stays_in_budget(sample):
    done = applied("channels_last{components=[unet, vae]}", sample)
    assert done.pipeline.unet.device.type == "cuda"
    assert done.report.final[0].error < 1e-4


def test_inputs_of_a_module_are_moved_with_it():
    net = nn.Linear(8, 8).cuda()
    recipe = ck.Recipe.from_steps("precision{dtype=bfloat16}", device="cuda")
    assert ck.apply(recipe, net, inputs={"input": torch.randn(4, 8)}, progress=False)


def test_tf32_stays_and_is_reported(sample):
    before = torch.get_float32_matmul_precision()
    try:
        done = applied("precision{tf32=true}", sample)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert done.report.steps[0].state["torch.float32_matmul_precision"].kept


def test_a1_the_tf32_recipe_stays_in_its_budget(sample):
    before = torch.get_float32_matmul_precision()
    recipe = ck.Recipe.load("any/tf32").model_copy(update={"sample": sample})
    try:
        done = ck.apply(recipe, tiny_pipeline("sd"), progress=False)
    finally:
        torch.set_float32_matmul_precision(before)
    assert done.report.final[0].error < 0.02


@pytest.mark.parametrize("kernel", ["flash", "efficient", "cudnn"])
def test_a2_the_kernel_that_is_named_computes_attention(sample, kernel):
    steps = f"precision{{dtype=float16}}, attention{{sdpa=[{kernel}, math]}}"
    done = applied(steps, sample)
    with torch.profiler.profile() as profile:
        draw(done.pipeline)
    names = {event.key for event in profile.key_averages() if "attention" in event.key}
    assert any(kernel in name for name in names)


@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"]
)
def test_a10_no_step_waits_for_the_gpu(sample, name):
    scheduler = applied(f"scheduler{{name={name}, on_cpu=true}}", sample).pipeline.scheduler
    scheduler.set_timesteps(4, device="cuda")
    x = torch.randn(1, 4, 8, 8, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        for timestep in scheduler.timesteps:
            x = scheduler.step(scheduler.scale_model_input(x, timestep), timestep, x).prev_sample
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_int8_compiled_with_cuda_graphs_stays_in_budget(sample):
    done = applied(
        "precision{dtype=bfloat16}, torchao_int8{components=unet}, "
        "torch_compile{components=unet, mode=reduce-overhead}",
        sample,
    )
    assert {m.entry: m.error for m in done.report.final}["unet"] < 0.1


def test_int8_under_model_offload_claims_only_what_it_does(sample):
    pipeline = tiny_pipeline("sd")
    pipeline.enable_model_cpu_offload()
    steps = "torchao_int8{components=unet}, torch_compile{components=unet}"
    assert applied(steps, sample, pipeline).report.final


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A UNet in bfloat16, compiled by AOTInductor for CUDA."""
    target = tmp_path_factory.mktemp("bundles") / "unet"
    steps = "precision{dtype=bfloat16}, torch_compile{components=[unet, vae.decode]}"
    recipe = ck.Recipe.from_steps(steps, device="cuda", sample=SAMPLE)
    ck.build(recipe, tiny_pipeline("sd"), target, progress=False)
    return target


def test_a_bundle_draws_on_the_gpu_what_eager_draws(bundle):
    drawn = draw(ck.load(bundle, progress=False))
    wanted = draw(tiny_pipeline("sd", dtype=torch.bfloat16).to("cuda"))
    assert abs(drawn - wanted).max() < 0.05


def test_compiled_calls_wait_for_no_copy_to_the_cpu(bundle):
    pipeline = ck.load(bundle, progress=False)
    seen = []
    pipeline.unet.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    draw(pipeline)
    args, kwargs = seen[0]
    pipeline.unet._forward_pre_hooks.clear()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.no_grad():
            pipeline.unet(*args, **kwargs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_weights_on_the_gpu_are_shared_with_compiled_code(bundle):
    pipeline = ck.load(bundle, progress=False)
    before = draw(pipeline)
    with torch.no_grad():
        pipeline.unet.get_parameter("conv_out.weight").mul_(3)
    assert abs(draw(pipeline) - before).max() > 1e-3


def test_a_bundle_of_int8_by_region_loads_without_torchao(tmp_path, monkeypatch):
    steps = (
        "precision{dtype=bfloat16}, torchao_int8{components=transformer}, "
        "torch_compile{components=transformer, regions=auto}"
    )
    recipe = ck.Recipe.from_steps(steps, device="cuda", sample=SAMPLE)
    built = ck.build(recipe, tiny_pipeline("flux"), tmp_path / "made", progress=False)
    monkeypatch.setitem(sys.modules, "torchao", None)
    drawn = draw(ck.load(tmp_path / "made", progress=False))
    assert abs(drawn - built.after.images).max() < 0.05


def test_another_index_is_honoured(bundle):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two devices")
    pipeline = ck.load(bundle, device="cuda:1", progress=False)
    assert pipeline.unet.device == torch.device("cuda:1")
    draw(pipeline)


def test_packed_weights_are_refused_for_a_gpu():
    steps = "torch_compile{components=unet, weights=packed}"
    with pytest.raises(ck.RecipeError, match='weights: packed is for the target "cpu"'):
        ck.plan(ck.Recipe.from_steps(steps, device="cuda", sample=SAMPLE), for_="build")
