"""`apply` and `build` say whether the result is faster, and stop where it may not be slower."""

from __future__ import annotations

import re
import sys

import pytest
from support import EXPORTER, command

import compilekit as ck
from compilekit.engine import gate, pace
from compilekit.report import Report, Verdict
from compilekit.report.table import warn_if_slower
from compilekit.testing import tiny_pipeline

SLOW = """
import compilekit as ck

def work_more(module, args, kwargs):
    for _ in range(3):
        module.forward(*args, **kwargs)

@ck.hookimpl(wrapper=True)
def optimize_model(model, context):
    result = yield
    if context.step.name == "precision":
        model.module("unet").register_forward_pre_hook(work_more, with_kwargs=True)
    return result
"""
"""An observer: bfloat16 is as slow as on a processor without instructions for it."""

OLD = """{
    "compilekit_machine": 1, "system": "linux", "cpu": "old", "cpu_flags": ["avx2"],
    "cores": 2, "memory": 17179869184,
    "rates": {"cpu": {"matmul": {"float32": 26e9, "bfloat16": 3.2e9}}}
}"""
WHY = "bfloat16 is 8.1 times slower than float32 here: this processor has no instructions for it"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speed") / "model"
    tiny_pipeline("sd").save_pretrained(folder)
    return folder


@pytest.fixture
def run(tmp_path, model, monkeypatch):
    """Run a command on a machine whose facts come from a file: `run("apply", verify="{}")`."""
    (tmp_path / "machine.json").write_text(OLD)
    machine = ck.Machine.read(tmp_path / "machine.json")
    monkeypatch.setattr(sys.modules["compilekit.plan.advice"], "this_machine", lambda: machine)
    monkeypatch.setattr(pace, "LEAST", 3)
    (tmp_path / "slow.py").write_text(SLOW)

    def _run(*words, step="{precision: {dtype: bfloat16, components: [unet]}}", verify="{}"):
        (tmp_path / "recipe.yaml").write_text(
            "compilekit: 1\ntarget: {device: cpu}\nsample: {prompt: a cat, height: 32, width: 32, "
            f"num_inference_steps: 1}}\nsteps: [{step}]\nverify: {verify}\n"
        )
        plugins = ("--plugin", "slow.py")
        return command(words[0], "recipe.yaml", model, *plugins, *words[1:], cwd=tmp_path)

    return _run


def test_a_slower_result_is_said_first_and_on_standard_error(run):
    done = run("apply")
    assert done.returncode == 0
    first = done.stdout.splitlines()[0]
    assert re.fullmatch(
        r"[\d.]+x SLOWER than as loaded \([\d.]+ m?s against [\d.]+ m?s; [\d.]+x to [\d.]+x\), "
        rf"error [\d.e-]+\. `precision` is to blame \(0\.\d\dx\): {re.escape(WHY)}",
        first,
    )
    assert f"compilekit: the result is {first.partition(', error')[0]}" in done.stderr


def test_min_speedup_fails_and_names_the_step_and_the_reason(run):
    done = run("apply", verify="{min_speedup: 1.0}")
    assert done.returncode == 1
    assert "and min_speedup is 1. `precision` is to blame (0." in done.stderr
    assert f"{WHY}. `verify: {{min_speedup: 0}}` allows a slower model" in done.stderr
    assert "x SLOWER than as loaded" in done.stdout.splitlines()[0]


def test_a_build_may_not_be_slower_unless_the_recipe_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setitem(gate.LEAST_SPEEDUP, "build", 1.0)
    steps = (
        "{precision: {dtype: bfloat16, components: [unet]}}, {eager_export: {components: [unet]}}"
    )
    more = ("--plugin", EXPORTER, "-o", "made", "--no-cache")
    done = run("build", *more, step=steps)
    assert done.returncode == 1
    assert "the finished model is out of budget: unet is 0." in done.stderr
    assert not (tmp_path / "made").exists()
    done = run("build", *more, step=steps, verify="{min_speedup: 0}")
    assert done.returncode == 0
    assert (tmp_path / "made").exists()
    assert "compilekit: the result is" in done.stderr


@pytest.mark.parametrize(("high", "warns"), [(0.9, True), (1.1, False)])
def test_only_what_is_surely_slower_is_warned_of(high, warns, capsys):
    report = Report(recipe="r", digest="", device="cpu", reference="float32")
    warn_if_slower(report)
    assert capsys.readouterr().err == ""
    report.verdict = Verdict(
        speedup=0.8, low=0.7, high=high, seconds=5, seconds_as_loaded=4, entries=[]
    )
    warn_if_slower(report)
    assert ("the result is 1.25x SLOWER than as loaded" in capsys.readouterr().err) == warns


def test_timings_show_the_stages(run):
    done = run("apply", "--timings")
    table = done.stdout.partition("stage ")[2].splitlines()
    assert [re.split(r" {2,}", line)[0] for line in table[1:8]] == [
        "recording the sample",
        "float32 reference, and times before the first step",
        "a copy of the model as loaded, for its times",
        "[1/1] precision: unet",
        "running the sample again",
        "final check",
        "speed, in turn with the model as loaded",
    ]
