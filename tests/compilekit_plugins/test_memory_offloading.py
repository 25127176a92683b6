"""`memory`: that weights really wait elsewhere, and that results stay as they are.

What needs an accelerator is shown on a CPU as far as that goes, and otherwise on a GPU alone.
"""

from __future__ import annotations

import dataclasses
import gc
import subprocess
import sys

import pytest
import torch
from support import SAMPLE, draw
from torch import nn

import compilekit as ck
from compilekit.base.progress import Progress
from compilekit.engine.job import Job
from compilekit.engine.run import Execution
from compilekit.model import Model, parameter_bytes
from compilekit.testing import tiny_pipeline

CAST = "memory{components=unet, layerwise={storage: float8_e4m3fn}}"
CPU = torch.device("cpu")


def apply(steps, pipeline="sd", device="cpu"):
    pipe = tiny_pipeline(pipeline) if isinstance(pipeline, str) else pipeline
    recipe = ck.Recipe.from_steps(steps, device=device, sample=SAMPLE)
    return ck.apply(recipe, pipe, progress=False)


def on_the_cpu(steps, pipeline):
    """Run what was planned for CUDA with the CPU in its place: hooks as there, and nothing moved.

    The plan refuses these steps for a CPU, where they are of no use.
    """
    plan = ck.plan(ck.Recipe.from_steps(steps, device="cuda", sample=SAMPLE))
    target = plan.recipe.target.model_copy(update={"device": "cpu"})
    plan = dataclasses.replace(plan, recipe=plan.recipe.model_copy(update={"target": target}))
    sample = {key: value for key, value in SAMPLE.items() if key != "seed"}
    job = Job(plan, Model(pipeline), ck.load_host(), sample, Progress(enabled=False))
    return Execution(job).run().report


def group(folder, options="", components="unet"):
    return f"memory{{components={components}, offload=group, group={{folder: {folder}{options}}}}}"


# Groups whose weights wait on disk


pytestmark = pytest.mark.usefixtures("float32_convolutions")


@pytest.mark.parametrize("level", ["block", "leaf"])
def test_groups_on_disk_compute_the_same_and_leave_nothing_in_memory(level, tmp_path):
    done = apply(group(tmp_path, f", level: {level}"))
    unet, (step,) = done.pipeline.unet, done.report.steps
    assert done.report.final[0].error == 0
    assert abs(draw(done.pipeline) - draw(tiny_pipeline("sd"))).max() == 0
    # What is in memory in their place means nothing: nobody reads it.
    with torch.no_grad():
        for weight in unet.parameters():
            weight.fill_(float("nan"))
    assert abs(draw(done.pipeline) - draw(tiny_pipeline("sd"))).max() == 0
    groups = {"block": 5, "leaf": 116}[level]
    assert step.details == {"groups": {"unet": groups}, "waits": str(tmp_path)}
    assert len(step.matched["unet"]) == groups
    assert len(list(tmp_path.rglob("*.safetensors"))) == groups
    assert step.state == {}


FREES = r"""
import gc, re, sys
from pathlib import Path
import torch
from torch import nn
import compilekit as ck
from compilekit.model import parameter_bytes

def resident():
    gc.collect()
    return 1024 * int(re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])

def on_disk(net, width):
    inputs = {"input": torch.ones(1, width)}
    ck.apply(ck.Recipe.from_steps(sys.argv[1]), net, inputs=inputs, progress=False)

# What is imported on the way takes memory too.
on_disk(nn.Sequential(nn.Linear(8, 8)).eval(), 8)
net = nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(8))).eval()
size, before = parameter_bytes(net), resident()
on_disk(net, 2048)
print((before - resident()) / size)
"""


@pytest.mark.full
def test_a_model_on_disk_frees_the_memory_that_it_took(tmp_path):
    # In a process of its own: in this one the allocator may keep what other tests gave back.
    steps = group(tmp_path, ", level: leaf", "model")
    done = subprocess.run(
        [sys.executable, "-c", FREES, steps], check=True, capture_output=True, text=True
    )
    assert float(done.stdout) > 0.8


def test_components_and_runs_that_share_a_folder_do_not_share_files(tmp_path):
    first = apply(group(tmp_path), tiny_pipeline("sd", seed=0)).pipeline
    again = apply(group(tmp_path, components="[unet, vae]"), tiny_pipeline("sd", seed=1))
    assert [m.error for m in again.report.final] == [0.0] * len(again.report.final)
    assert abs(draw(first) - draw(tiny_pipeline("sd", seed=0))).max() == 0
    assert abs(draw(again.pipeline) - draw(tiny_pipeline("sd", seed=1))).max() == 0


def test_files_go_with_the_model(tmp_path):
    done = apply(group(tmp_path))
    assert len(list(tmp_path.iterdir())) == 1
    del done
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_memory_in_place_of_weights_cannot_be_saved(tmp_path):
    done = apply(group(tmp_path))
    with pytest.raises(ck.SaveError, match=r"steps\[0\]\.memory keeps its weights in files, and"):
        done.pipeline.save_pretrained(tmp_path / "saved")
    done.pipeline.vae.save_pretrained(tmp_path / "saved")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ck.StepError, match=rf"memory: unet: .*File exists: '{tmp_path}/file'"):
        apply(group(tmp_path / "file"))


def test_cast_weights_wait_on_disk_as_they_are_cast(tmp_path):
    alone = apply(CAST).report
    both = apply(f"{CAST}, {group(tmp_path)}").report
    assert [m.error for m in both.final] == [m.error for m in alone.final]
    sizes = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    assert sizes < 0.35 * parameter_bytes(tiny_pipeline("sd").unet)


def test_a_class_that_cannot_be_grouped_says_so(monkeypatch, tmp_path):
    from diffusers import UNet2DConditionModel

    monkeypatch.setattr(UNet2DConditionModel, "_supports_group_offloading", False)
    with pytest.raises(ck.StepError, match=r"memory: unet: UNet2DConditionModel does not support"):
        apply(group(tmp_path))


# Accelerate's hooks, as far as a CPU can show them


def test_model_offload_keeps_its_hooks_and_replays_and_saves(tmp_path):
    pipe = tiny_pipeline("sd")
    report = on_the_cpu("memory{offload=model}, attention{vae=[slicing]}", pipe)
    assert report.steps[0].matched == {
        "vae": ["vae"],
        "text_encoder": ["text_encoder"],
        "unet": ["unet"],
    }
    assert [m.error for m in report.final] == [0.0] * len(report.final)
    for _ in range(2):  # diffusers takes its hooks off and puts them on again after each call
        assert abs(draw(pipe) - draw(tiny_pipeline("sd"))).max() == 0
    assert type(pipe.unet._hf_hook).__name__ == "CpuOffload"
    pipe.save_pretrained(tmp_path)
    assert abs(draw(type(pipe).from_pretrained(tmp_path)) - draw(pipe)).max() == 0
    assert report.steps[0].state == {}


@pytest.mark.full
def test_compiled_code_stays_beneath_the_hooks_of_model_offload():
    pipe = tiny_pipeline("sd")
    steps = "memory{offload=model}, torch_compile{components=unet, backend=eager, fullgraph=true}"
    report = on_the_cpu(steps, pipe)
    assert report.steps[1].details["graph_breaks"] == []
    draw(pipe)
    assert hasattr(pipe.unet._old_forward, "_torchdynamo_orig_callable")
    assert type(pipe.unet._hf_hook).__name__ == "CpuOffload"


@pytest.mark.full
@pytest.mark.parametrize("regions", ["none", "model"])
def test_code_breaks_at_the_hooks_of_groups_of_blocks_and_is_right(regions):
    steps = "memory{components=transformer, offload=group}, "
    steps += f"torch_compile{{components=transformer, regions={regions}, backend=eager}}"
    pipe = tiny_pipeline("flux")
    report = on_the_cpu(steps, pipe)
    assert report.steps[0].details["groups"] == {"transformer": 6}
    assert "hooks/group_offloading.py" in " ".join(report.steps[1].details["graph_breaks"])
    assert report.final[0].error < 1e-5
    assert abs(draw(pipe) - draw(tiny_pipeline("flux"))).max() < 1e-4


def test_sequential_offload_takes_the_weights_out_of_the_modules(tmp_path):
    """Only how it is put up: accelerate cannot run it where the accelerator is the CPU itself."""
    pipe = tiny_pipeline("sd")
    with pytest.raises(ck.StepError, match="text_encoder no longer runs") as raised:
        on_the_cpu("memory{offload=sequential}", pipe)
    (step,) = raised.value.report.steps
    assert {weight.device.type for weight in pipe.unet.parameters()} == {"meta"}
    assert len(step.matched["unet"]) > 100
    with pytest.raises(ck.SaveError, match=r"memory keeps its weights out of the modules, where"):
        pipe.save_pretrained(tmp_path)


def by_accelerate(pipe):
    pipe.enable_model_cpu_offload(device="cpu")


def by_diffusers(pipe):
    pipe.vae.enable_group_offload(CPU, CPU, "leaf_level")


@pytest.mark.parametrize("by_hand", [by_accelerate, by_diffusers])
@pytest.mark.parametrize(
    "steps",
    [
        "memory{offload=model}",
        group("unused", components="vae"),
        "memory{components=vae, layerwise={storage: bfloat16}}",
    ],
)
def test_what_is_offloaded_already_is_refused(by_hand, steps):
    pipe = tiny_pipeline("sd")
    by_hand(pipe)
    with pytest.raises(ck.StepError) as raised:
        on_the_cpu(steps, pipe)
    assert str(raised.value) == (
        "steps[0].memory: vae: it is offloaded already, by hooks of "
        f"{by_hand.__name__.removeprefix('by_')}: load the pipeline without them, or leave the "
        "step out"
    )


def test_offloading_by_the_pipeline_is_for_whole_pipelines():
    with pytest.raises(ck.StepError) as raised:
        on_the_cpu("memory{components=unet, offload=sequential}", tiny_pipeline("sd"))
    assert str(raised.value) == (
        "steps[0].memory: offload: sequential works on the whole pipeline: leave `components` out, "
        "or say `offload: group`"
    )
    plan = ck.plan(ck.Recipe.from_steps("memory{offload=model}", device="cuda"))
    net = Model(nn.Linear(8, 8), {"input": torch.ones(1, 8)})
    job = Job(plan, net, ck.load_host(), {}, Progress(enabled=False))
    with pytest.raises(ck.StepError, match=r"a Linear has no offload: model; say `offload: group`"):
        Execution(job).run()


# Why code is not compiled around such hooks; with other versions of torch it may be


def cast_layers(net):
    from diffusers.hooks import apply_layerwise_casting

    apply_layerwise_casting(net, torch.float8_e4m3fn, torch.float32)


def grouped(level):
    from diffusers.hooks import apply_group_offloading

    return lambda net: apply_group_offloading(net, CPU, CPU, f"{level}_level", 1)


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(2))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize("hooks", [cast_layers, grouped("leaf"), grouped("block")])
def test_code_with_hooks_inside_is_not_one_graph(hooks):
    net, inputs = Blocks().eval(), torch.ones(1, 8)
    torch.compile(net, fullgraph=True, backend="eager")(inputs)
    hooks(net)
    torch._dynamo.reset()
    with torch.no_grad(), pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(net, fullgraph=True, backend="eager")(inputs)


@pytest.mark.full
def test_quantised_blocks_cannot_be_moved_between_compiled_code():
    steps = "torchao_int8{components=transformer, min_rows=1}"
    pipe = apply(steps, "flux").pipeline
    pipe.transformer.enable_group_offload(CPU, CPU, "block_level", 1)
    draw(pipe)
    pipe.transformer.compile(backend="eager")
    with pytest.raises(RuntimeError, match=r"Couldn't swap Linear\.weight"):
        draw(pipe)


# On a GPU

gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def on_gpu(*cases):
    return [pytest.param(case, marks=gpu) for case in cases]


@pytest.mark.parametrize(
    "options",
    on_gpu(
        "offload=model",
        "offload=sequential",
        "offload=group",
        "offload=group, group={blocks: 2}",
        "offload=group, group={stream: true}",
        "offload=group, group={level: leaf}",
        "offload=group, group={level: leaf, stream: true}",
    ),
)
def test_offloaded_weights_wait_on_the_cpu_and_draw_the_same(options):
    done = apply(f"memory{{{options}}}", device="cuda")
    assert max(m.error for m in done.report.final) < 1e-4
    wanted = draw(tiny_pipeline("sd").to("cuda"))
    for _ in range(2):
        assert abs(draw(done.pipeline) - wanted).max() < 1e-3
    places = {weight.device.type for weight in done.pipeline.unet.parameters()}
    assert places == {"meta" if "sequential" in options else "cpu"}


@pytest.mark.parametrize("options", on_gpu("", ", stream: true"))
def test_weights_on_disk_draw_the_same_on_a_gpu(options, tmp_path):
    done = apply(group(tmp_path, options, "[unet, vae]"), device="cuda")
    assert max(m.error for m in done.report.final) < 1e-4
    assert abs(draw(done.pipeline) - draw(tiny_pipeline("sd").to("cuda"))).max() < 1e-3


@pytest.mark.parametrize(
    "steps",
    on_gpu(
        "memory{offload=model}, torch_compile{components=unet, fullgraph=true}",
        "memory{components=unet, offload=group}, torch_compile{components=unet, regions=model}",
        "memory{components=unet, offload=group, group={stream: true}}, "
        "torch_compile{components=unet}",
        "torchao_int8{components=unet}, memory{offload=model}, torch_compile{components=unet}",
        "memory{components=unet, layerwise={storage: float8_e4m3fn}}, memory{offload=model}",
        "memory{components=unet, layerwise={storage: float8_e4m3fn}}, "
        "memory{components=unet, offload=group, group={stream: true}}",
    ),
)
def test_what_goes_with_offloading_stays_in_its_budget(steps):
    done = apply(f"precision{{dtype=bfloat16}}, {steps}", device="cuda")
    first = draw(done.pipeline)
    assert abs(draw(done.pipeline) - first).max() < 1e-2
