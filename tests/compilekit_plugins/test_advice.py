"""The advice of built-in steps, for machines whose facts are in files as `doctor` writes them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support import SAMPLE
from torch import nn
from typer.testing import CliRunner

import compilekit as ck
from compilekit.base.machine import this_machine
from compilekit.cli import app

MACHINES = Path(__file__).with_name("machines")
COMPILED = ", torch_compile{components=unet}"
INT8 = "torchao_int8{components=unet}" + COMPILED
DYNAMIC = "torchao{components=unet, config=int8_dynamic}" + COMPILED
WEIGHT = "torchao{components=unet, config=int8_weight}" + COMPILED
FLOAT8 = "torchao{components=unet, config=float8_dynamic}" + COMPILED
TUNED = "torch_compile{components=unet, mode=max-autotune-no-cudagraphs}"
NONE = "no instructions for it"


def there(name):
    return ck.Machine.read(MACHINES / f"{name}.json")


@pytest.mark.parametrize(
    ("steps", "device", "name", "said"),
    [
        (
            "precision{dtype=bfloat16}",
            "cpu",
            "avx2",
            f"bfloat16 is 100.0 times slower than float32 here: this processor has {NONE}",
        ),
        ("precision{dtype=float16}", "cpu", "avx2", "precision: float16 is 100.0 times slower"),
        ("precision{dtype=float32}", "cpu", "avx2", ""),
        ("precision{dtype=bfloat16}", "cpu", "avx512", ""),
        ("precision{dtype=float16}", "cpu", "avx512", "float16 is 100.0 times slower than"),
        ("precision{dtype=bfloat16}", "cpu", "amx", ""),
        ("precision{dtype=float16}", "cpu", "amx", ""),
        ("precision{dtype=bfloat16}", "cuda", "t4", "Tesla T4 has no instructions for bfloat16"),
        ("precision{dtype=bfloat16}", "cuda", "a100", ""),
        ("precision{dtype=float16}", "cuda", "t4", ""),
        (INT8, "cpu", "avx2", "torchao_int8: int8 is 40.0 times slower than float32 here: this"),
        (INT8, "cpu", "avx512", ""),
        (INT8, "cpu", "amx", ""),
        (DYNAMIC, "cpu", "avx2", "torchao: int8 is 40.0 times slower than float32 here"),
        (WEIGHT, "cpu", "avx2", ""),
        (FLOAT8, "cuda", "t4", "torchao: Tesla T4 has no float8 product"),
        (FLOAT8, "cuda", "a100", "torchao: NVIDIA A100-SXM4-80GB has no float8 product"),
        (FLOAT8, "cuda", "h100", ""),
        (TUNED, "cpu", "amx", 'torch_compile: mode "max-autotune-no-cudagraphs" tries kernels'),
        (TUNED, "cuda", "h100", ""),
    ],
)
def test_a_step_says_what_will_be_slow_on_a_machine(steps, device, name, said):
    recipe = ck.Recipe.from_steps(steps, sample=SAMPLE, device=device)
    plan = ck.plan(recipe, machine=there(name))
    assert len(plan.advice) == bool(said)
    assert said in "".join(plan.advice)
    assert ("\nadvice: steps[0]." in str(plan)) == bool(said)


@pytest.mark.parametrize(
    ("name", "device", "count"), [("crowded", "cpu", 1), ("crowded", "cuda", 0), ("amx", "cpu", 0)]
)
def test_more_threads_than_cores_are_told_for_a_processor(name, device, count):
    recipe = ck.Recipe.from_steps("precision{dtype=bfloat16}", device=device)
    assert (
        ck.plan(recipe, machine=there(name)).advice
        == (
            "torch computes with 32 threads on 2 cores, so they wait for each other: set "
            "OMP_NUM_THREADS=2",
        )[:count]
    )


PACKED = "  - torch_compile: {components: [unet], weights: packed}"


@pytest.mark.parametrize(
    ("shapes", "step", "purpose", "count"),
    [
        ("[{height: 64, width: 64}, {height: 64, width: 96}]", PACKED, "build", 2),
        ("[{width: 96}, {height: 96}]", PACKED, "build", 3),
        ("[{height: 64, width: 64}]", PACKED, "build", 0),
        ("[{num_frames: 8}]", PACKED, "build", 0),  # the model decides how many the sample has
        ("[]", PACKED, "build", 0),
        ("[{height: 96}]", PACKED, "apply", 0),
        ("[{height: 96}]", PACKED.replace("packed", "shared"), "build", 0),
    ],
)
def test_packed_weights_with_several_sizes_are_told_before_a_build(
    write, shapes, step, purpose, count
):
    sample = "{prompt: a cat, height: 64, width: 64}"
    head = f"compilekit: 1\ntarget: {{device: cpu}}\nsample: {sample}\nsteps:\n{step}\n"
    recipe = write("one.yaml", f"{head}shapes: {shapes}\n")
    advice = ck.plan(recipe, for_=purpose, machine=there("amx")).advice
    said = (
        "steps[0].torch_compile compiles for one size with these options, and `shapes:` "
        f"and the sample have {count}: make a bundle for each, or change the options"
    )
    assert advice == ((said,) if count else ())


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(x)


class Stack(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(count))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize("count", [2, 4])
def test_few_blocks_are_told_when_the_step_meets_the_model(count):
    import torch

    recipe = ck.Recipe.from_steps("torch_compile{components=model, regions=auto, backend=eager}")
    inputs = {"x": torch.ones(1, 4)}
    report = ck.apply(recipe, Stack(count), inputs=inputs, progress=False).report
    said = (
        "steps[0].torch_compile: model has only 2 blocks to compile: regions pay where many are "
        "alike; try it whole"
    )
    assert report.advice == ([said] if count == 2 else [])
    assert (f"advice: {said}" in str(report).splitlines()) == (count == 2)


def test_the_command_line_reads_such_a_file_too():
    words = ["plan", "sd/cpu", "--machine", str(MACHINES / "avx2.json")]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, "bfloat16 is 100.0 times slower" in done.stdout) == (0, True)
    assert CliRunner().invoke(app, [*words, "--strict"]).exit_code == 3
    able = CliRunner().invoke(app, [*words[:-1], str(MACHINES / "amx.json"), "--strict"])
    assert (able.exit_code, "advice" in able.stdout) == (0, False)


def test_without_a_machine_the_advice_is_about_this_one(monkeypatch):
    monkeypatch.setattr("compilekit.base.environment.cpu_flags", lambda: "avx2")
    monkeypatch.setattr(sys.modules["compilekit.plan.advice"], "this_machine", this_machine)
    steps = "precision{dtype=bfloat16}"
    (sentence,) = ck.plan(ck.Recipe.from_steps(steps)).advice
    assert sentence.startswith("steps[0].precision: bfloat16 may be slow here")
    # The GPUs of this machine are not known before it was measured.
    assert ck.plan(ck.Recipe.from_steps(steps, device="cuda")).advice == ()
