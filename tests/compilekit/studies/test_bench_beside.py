"""`bench` beside another: two processes that take turns, from the command to the text."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from support import LISTENING, SAMPLE, command, is_alive, until

import compilekit as ck
from compilekit.testing import tiny_pipeline

NETS = """
import os, time
from pathlib import Path
from torch import nn

class Net(nn.Module):
    wait = 0.01

    def __init__(self, act=lambda runs: None):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.act = act
        self.runs = 0

    def forward(self, x):
        self.runs += 1
        self.act(self.runs)
        time.sleep(self.wait)
        return x * 2

def net():
    return Net().eval()

def crashing():
    def act(runs):
        if runs > 20:
            print("what it said last")
            os._exit(7)
    return Net(act).eval()

def hanging():
    def act(runs):
        folder = Path(os.environ["NETS"])
        (folder / str(os.getpid())).touch()
        time.sleep(600 if len(list(folder.iterdir())) == 2 else 0)
    return Net(act).eval()

def only_once():
    Path(os.environ["NETS"], "made").mkdir()  # fails for the second process
    return Net().eval()
"""

WAITING = """
import compilekit as ck

class Waiting(ck.Options):
    wait: float = 0.04

@ck.hookimpl
def describe():
    return ck.StepDescription(
        help="Wait for longer.",
        options=Waiting,
        effects=lambda options, device: ck.effects("runtime"),
    )

@ck.hookimpl
def optimize_model(model, options, context):
    for name in context.components:
        model.module(name).wait = options.wait
    return ck.StepResult(matched={n: [n] for n in context.components}, changed={})
"""

HEAD = "compilekit: 1\ntarget: {device: cpu}\nmodel: {inputs: {x: {shape: [1, 2]}}}\n"
PLAIN = ck.Recipe.parse(f"{HEAD}name: plain\nsteps: [precision: {{dtype: float32}}]\n")
QUIET = {"progress": False, "seconds": 20}


@pytest.fixture
def waiting(write):
    """A file with a plugin whose step makes the model slower."""
    return write("waiting.py", WAITING)


@pytest.fixture
def slow(waiting):
    """A recipe with that step, and the plugins."""
    host = ck.load_host([waiting])
    draft = ck.Recipe.parse(f"{HEAD}name: slow\nsteps: [waiting: {{components: [model]}}]\n")
    return draft, host


def test_a_recipe_is_timed_beside_the_model_as_loaded(nets, slow):
    recipe, host = slow
    found = ck.bench(recipe, nets.net, batches=(1, 3), host=host, **QUIET)
    assert [(row.batch, row.images) for row in found.rows] == [(1, 1), (3, 3)]
    assert [(row.batch, row.images) for row in found.against.rows] == [(1, 1), (3, 3)]
    assert (found.recipe, found.against.recipe) == ("slow", "the model as loaded")
    assert [(c.batch, c.verdict) for c in found.comparisons] == [(1, "slower"), (3, "slower")]
    assert all(
        c.pairs >= 5 and c.pace.low <= c.pace.ratio <= c.pace.high for c in found.comparisons
    )
    lines = str(found).splitlines()
    assert lines[:2] == found.verdicts
    assert "x SLOWER than the model as loaded (" in lines[0]
    assert lines[1].endswith("), in a batch of 3")
    assert [line.split("  ")[0] for line in lines[3:7]] == [
        "slow",
        "the model as loaded",
        "slow",
        "the model as loaded",
    ]
    assert lines[7].startswith("slow: first sample after ")
    data = json.loads(found.to_json())
    assert data["against"]["rows"][1]["images"] == 3
    assert data["comparisons"][0]["verdict"] == "slower"
    assert data["verdicts"] == found.verdicts


def test_a_recipe_that_is_slower_than_allowed_is_an_error_with_the_numbers(nets, slow):
    recipe, host = slow
    with pytest.raises(ck.VerificationError) as caught:
        ck.bench(recipe, nets.net, against=PLAIN, max_slowdown="5%", host=host, **QUIET)
    message = str(caught.value)
    assert message.startswith("in a batch of 1, slow takes ")
    assert message.endswith("x), and at most 1.05x is allowed")
    assert " the time of plain (" in message
    assert caught.value.report.against.recipe == "plain"
    allowed = ck.bench(recipe, nets.net, against=PLAIN, max_slowdown="2000%", host=host, **QUIET)
    assert allowed.comparisons[0].verdict == "slower"


def test_the_faster_one_is_faster_whichever_is_asked_for(nets, slow):
    recipe, host = slow
    found = ck.bench(PLAIN, nets.net, against=recipe, max_slowdown=0, host=host, **QUIET)
    assert "plain is " in found.verdicts[0]
    assert "x faster than slow (" in found.verdicts[0]


def test_a_broken_budget_of_either_ends_it_before_anything_is_timed(nets):
    strict = ck.Recipe.parse(
        f"{HEAD}name: strict\nsteps: [precision: {{dtype: bfloat16, budget: 1e-9}}]\n"
    )
    with pytest.raises(ck.VerificationError, match=r"^steps\[0\].precision"):
        ck.bench(strict, nets.net, **QUIET)
    with pytest.raises(ck.VerificationError, match=r"^strict: steps\[0\].precision"):
        ck.bench(PLAIN, nets.net, against=strict, **QUIET)


def test_a_worker_that_crashes_is_named_with_what_it_said_last(nets):
    with pytest.raises(ck.WorkerError) as caught:
        ck.bench(PLAIN, nets.crashing, **QUIET)
    assert str(caught.value).startswith("plain: the worker (")
    assert "ended with exit code 7 and no result" in str(caught.value)
    assert str(caught.value).endswith("what it said last")


def test_where_the_model_as_loaded_does_not_run_the_recipe_is_timed_alone(
    nets, tmp_path, monkeypatch
):
    monkeypatch.setenv("NETS", str(tmp_path))
    found = ck.bench(PLAIN, nets.only_once, runs=2, **QUIET)
    assert (found.against, found.comparisons, len(found.rows)) == (None, [], 1)
    assert "not compared: the model as loaded: the worker (" in str(found).splitlines()[-1]
    assert "FileExistsError" in str(found).splitlines()[-1]
    (tmp_path / "made").rmdir()
    with pytest.raises(ck.WorkerError, match=r"^the model as loaded: the worker .*FileExistsError"):
        ck.bench(PLAIN, nets.only_once, max_slowdown="5%", **QUIET)


def test_what_another_process_cannot_load_is_not_compared():
    import torch

    given = {"inputs": {"input": torch.ones(1, 2)}, "progress": False}
    recipe = ck.Recipe.from_steps("precision{dtype=bfloat16}")
    for more in ({"against": recipe}, {"max_slowdown": "5%"}):
        with pytest.raises(ck.UsageError, match=r"^against= and max_slowdown= compare .* a folder"):
            ck.bench(recipe, torch.nn.Linear(2, 2), **given, **more)
    found = ck.bench(recipe, lambda: torch.nn.Linear(2, 2), runs=1, **given)
    assert found.notes[0].startswith("not compared with anything, since another process cannot")
    assert found.against is None


def test_an_against_that_is_wrong_is_told_before_anything_is_loaded():
    with pytest.raises(ck.RecipeError, match=r'no plugin brings a step "chanels_last"'):
        ck.bench("sd/cpu", "no-such", against=ck.Recipe.from_steps("chanels_last"), progress=False)
    with pytest.raises(ck.UsageError, match="seconds is -1, and must be a number, 0 at the least"):
        ck.bench("sd/cpu", "no-such", seconds=-1)


@pytest.mark.full
def test_ctrl_c_ends_both_processes(nets, tmp_path, write):
    code = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import {nets.__name__} as nets
        import compilekit as ck
        recipe = ck.Recipe.parse({HEAD!r})
        ck.bench(recipe, nets.hanging, progress=False)
        """
    folder = tmp_path / "pids"
    folder.mkdir()
    asking = subprocess.Popen(
        [*LISTENING, sys.executable, write("asking.py", code)],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "NETS": str(folder)},
    )
    try:
        assert until(lambda: len(list(folder.iterdir())) == 2, 120)
        asking.send_signal(signal.SIGINT)
        asking.wait(60)
        assert until(lambda: not any(is_alive(int(file.name)) for file in folder.iterdir()))
    finally:
        asking.kill()


def test_the_command_prints_a_verdict_or_json(tmp_path, write, waiting):
    tiny_pipeline("sd").save_pretrained(tmp_path / "sd")
    said = {"compilekit": 1, "name": "b", "target": {"device": "cpu"}}
    steps = [{"channels_last": {"components": ["unet"]}}]
    path = write("b.yaml", json.dumps({**said, "sample": SAMPLE, "steps": steps}))
    # It has neither a sample nor a model: those of the first are used.
    other = write("o.yaml", json.dumps({**said, "name": "o", "steps": []}))
    timed = ["--against", other, "--batch", 2, "--runs", 1, "--seconds", 0, "--plugin", waiting]
    ours = ["--steps", "channels_last{components=unet}, waiting{components=unet}"]
    done = command("bench", path, tmp_path / "sd", *timed, *ours, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for each in (found, found["against"]):
        (row,) = each["rows"]
        assert (row["batch"], row["images"]) == (2, 2)
        assert row["rate"] == pytest.approx(2 / row["seconds"])
    assert (found["recipe"], found["against"]["recipe"]) == ("b", "o")
    assert found["comparisons"][0]["verdict"] == "untold"
    assert "it needs 5 pairs of turns, and had 1" in found["verdicts"][0]


def test_the_command_fails_with_the_numbers_where_it_is_too_slow(monkeypatch):
    found = ck.Bench("new", "cpu", [], setup=0.0, runs=5)

    def bench(*_, **__):
        error = ck.VerificationError("too slow")
        error.report = found
        raise error

    monkeypatch.setattr("compilekit.api.bench", bench)
    done = command("bench", "sd/cpu", "--max-slowdown", "5%", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["recipe"] == "new"
    assert done.stderr.endswith("compilekit: too slow\n")
