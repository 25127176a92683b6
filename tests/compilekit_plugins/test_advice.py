"""The advice of built-in steps, for machines whose facts are in a file."""

from __future__ import annotations

import json
import sys

import pytest
from support import SAMPLE

import compilekit as ck
from compilekit.base.machine import this_machine

FACTS = {"compilekit_machine": 1, "system": "linux", "cpu": "one", "cores": 8, "memory": 1 << 35}
AVX2 = {"cpu_flags": ["avx2"]}
AMX = {"cpu_flags": ["avx2", "avx512_vnni", "avx512_bf16", "amx_fp16", "amx_int8"]}
T4, ADA, HOPPER = (
    {"cpu_flags": [], "gpus": [{"name": name, "generation": generation}]}
    for name, generation in (("T4", "7.5"), ("L4", "8.9"), ("H100", "9.0"))
)
COMPILED = ", torch_compile{components=unet}"
INT8 = "torchao_int8{components=unet}" + COMPILED
FLOAT8 = "torchao{components=unet, config=float8_dynamic}" + COMPILED
TUNED = "torch_compile{components=unet, mode=max-autotune-no-cudagraphs}"


@pytest.mark.parametrize(
    ("steps", "device", "facts", "said"),
    [
        (
            "precision{dtype=bfloat16}",
            "cpu",
            AVX2,
            "precision: bfloat16 may be slow here",
        ),
        ("precision{dtype=float16}", "cpu", AVX2, "precision: float16 may be slow here"),
        ("precision{dtype=bfloat16}", "cpu", AMX, ""),
        ("precision{dtype=float16}", "cpu", AMX, ""),
        ("precision{dtype=float32}", "cpu", AVX2, ""),
        ("precision{dtype=bfloat16}", "cuda", T4, "T4 has no instructions for bfloat16"),
        ("precision{dtype=bfloat16}", "cuda", HOPPER, ""),
        (INT8, "cpu", AVX2, "torchao_int8: int8 may be slow here"),
        (INT8, "cpu", AMX, ""),
        (
            INT8.replace("torchao_int8{", "torchao{config=int8_dynamic, "),
            "cpu",
            AVX2,
            "int8",
        ),
        (INT8.replace("torchao_int8{", "torchao{config=int8_weight, "), "cpu", AVX2, ""),
        (FLOAT8, "cuda", T4, "T4 has no float8 product"),
        (FLOAT8, "cuda", ADA, ""),
        (TUNED, "cpu", AMX, "tries kernels of GPUs"),
        (TUNED, "cuda", HOPPER, ""),
    ],
)
def test_a_step_says_what_will_be_slow_on_a_machine(tmp_path, steps, device, facts, said):
    path = tmp_path / "there.json"
    path.write_text(json.dumps(FACTS | facts), encoding="utf-8")
    recipe = ck.Recipe.from_steps(steps, sample=SAMPLE, device=device)
    plan = ck.plan(recipe, machine=ck.Machine.read(path))
    assert len(plan.advice) == bool(said)
    assert said in "".join(plan.advice)
    assert ("advice: steps[0]" in str(plan)) == bool(said)


def test_without_a_machine_the_advice_is_about_this_one(monkeypatch):
    monkeypatch.setattr("compilekit.base.environment.cpu_flags", lambda: "avx2")
    monkeypatch.setattr(sys.modules["compilekit.plan.plan"], "this_machine", this_machine)
    steps = "precision{dtype=bfloat16}"
    (sentence,) = ck.plan(ck.Recipe.from_steps(steps)).advice
    assert sentence.startswith("steps[0].precision: bfloat16 may be slow here")
    # The GPUs of this machine are not known before it was measured.
    assert ck.plan(ck.Recipe.from_steps(steps, device="cuda")).advice == ()
