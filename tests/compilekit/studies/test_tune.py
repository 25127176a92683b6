"""`tune` with real processes: planted steps, kills, and a plugin that takes part by itself."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from filelock import FileLock
from support import LISTENING, SAMPLE, command, is_alive, until

import compilekit as ck
from compilekit.studies.tune import search
from compilekit.studies.tune.run import LOCK
from compilekit.studies.tune.study import FILE
from compilekit.testing import tiny_pipeline

NETS = """
import time
from torch import nn

class Net(nn.Module):
    wait, factor = 0.01, 2.0

    def forward(self, x):
        time.sleep(self.wait)
        return x * self.factor

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

def net():
    return Net().eval()
"""

# A plugin of a third party: what it offers, it does.
PLANTED = """
from typing import Literal
import ctypes, os, time
import compilekit as ck

Act = Literal["fast", "wrong", "slow", "same", "crash", "hang", "leak", "raise"]

class Planted(ck.Options):
    act: Act

@ck.hookimpl
def describe():
    acts = os.environ.get("ACTS", "").split()
    return ck.StepDescription(
        help="Do what was planted.",
        options=Planted,
        effects=lambda options, device: ck.effects("runtime"),
        candidates=lambda component, device, machine: [{"act": act} for act in acts],
        budget=1.0,
    )

@ck.hookimpl
def optimize_model(model, options, context):
    module = model.module("model")
    act = options.act
    if act == "crash":
        ctypes.string_at(0)
    if act == "hang":
        time.sleep(600)
    if act == "leak":
        kept = []
        while True:
            kept.append(bytearray(b"x") * (1 << 26))
    if act == "raise":
        raise RuntimeError("planted")
    module.wait = {"fast": 0.006, "wrong": 0.001, "slow": 0.02, "same": 0.01}[act]
    module.factor = 2.06 if act == "wrong" else 2.0
    return ck.StepResult(matched={"model": ["wait"]}, changed={"model": ["wait"]})
"""

LEAVES = """
import os, time
from pathlib import Path
import compilekit as ck

@ck.hookimpl
def describe():
    return ck.StepDescription(
        help="Leave a process.", options=ck.Options,
        effects=lambda options, device: ck.effects("runtime"),
    )

@ck.hookimpl
def optimize_model(model, options, context):
    pid = os.fork()  # it holds all that the trial's process had open
    if not pid:
        time.sleep(600)
        os._exit(0)
    Path(__file__).with_name("pid").write_text(str(pid))
    return ck.StepResult(matched={"model": ["x"]}, changed={})
"""

RECIPE = """
compilekit: 1
target: {device: cpu}
model: {inputs: {x: {shape: [1, 2]}}}
verify: {max_relative_error: 0.01}
"""


def choosing(*acts):
    """The recipe with these acts to choose from, or none."""
    steps = [{"planted": {"components": ["model"], "act": act}} for act in acts]
    return f"{RECIPE}steps: [{json.dumps({'choices': [*steps, None]})}]\n"


@pytest.fixture
def tune(nets, write, tmp_path, monkeypatch):
    """Tune the net with planted steps, which take part by themselves, or as a recipe says."""
    monkeypatch.setattr(search, "LEAST_PATIENCE", 12.0)
    monkeypatch.setattr(search, "PATIENCE", 1.0)
    monkeypatch.setattr(search, "THOROUGH", 1)

    def _tune(recipe, *acts):
        monkeypatch.setenv("ACTS", " ".join(acts))
        host = ck.load_host([write("planted.py", PLANTED)])
        arguments = {"minutes": 5, "memory": "3 GB", "study": tmp_path / "study"}
        return ck.tune(recipe, nets.net, host=host, progress=False, **arguments)

    return _tune


def state_of(tuned, act):
    return next(t for t in tuned.trials if t.steps == f"planted{{components=[model], act={act}}}")


def test_every_failure_is_kept_with_its_reason_and_the_fastest_that_is_right_is_taken(tune):
    found = tune(ck.Recipe.parse(RECIPE), "crash", "hang", "leak", "raise", "wrong", "slow", "fast")
    assert found.recipe.steps[0].options == {"act": "fast"}
    assert found.verdict.startswith("1.6"), found.verdict
    told = {act: state_of(found, act) for act in ("crash", "hang", "leak", "raise", "wrong")}
    assert {act: trial.state for act, trial in told.items()} == {
        "crash": "crashed",
        "hang": "took too long",
        "leak": "out of memory",
        "raise": "failed",
        "wrong": "over budget",
    }
    assert "SIGSEGV" in told["crash"].why
    assert "within 12 s" in told["hang"].why
    assert "no memory" in told["leak"].why
    assert "RuntimeError: planted" in told["raise"].why
    assert told["wrong"].errors["model"] == pytest.approx(0.03, rel=0.01)
    assert state_of(found, "slow").gain.kind == "slower"
    text = str(found)
    assert "crashed: planted{components=[model], act=crash}: its process was ended by SIG" in text
    assert json.loads(found.to_json())["best"]["state"] == "measured"
    written = found.to_yaml()
    assert "as fast as without planted, on model" in written
    again = ck.Recipe.parse(written)
    assert again.steps == found.recipe.steps
    assert again.tuned.cpu == ck.machine().cpu


def test_equal_choices_make_no_recipe(tune, write):
    found = tune(write("same.yaml", choosing("same")))
    assert found.best is None
    assert found.recipe.steps == ()
    assert str(found).startswith("nothing that was tried is faster than the model as loaded")


def test_a_mistake_leaves_no_study_and_another_recipe_is_not_mixed_up(tune, write, tmp_path):
    with pytest.raises(ck.ModelError):
        ck.tune(ck.Recipe.parse(RECIPE), "no-such-model", study=tmp_path / "study", progress=False)
    assert not (tmp_path / "study").exists()
    tune(write("same.yaml", choosing("same")))
    with pytest.raises(ck.UsageError, match=r"is the study of something else \(recipe: "):
        tune(write("other.yaml", choosing("same").replace("0.01", "0.02")))


def test_two_at_once_do_not_work_on_one_study(nets, tmp_path):
    with FileLock(tmp_path / LOCK), pytest.raises(ck.UsageError, match="another `tune` works on"):
        ck.tune(ck.Recipe.parse(RECIPE), nets.net, study=tmp_path, progress=False)


def test_a_sample_that_does_not_run_says_why(nets, tmp_path):
    recipe = ck.Recipe.parse(RECIPE.replace("{x:", "{y:"))
    with pytest.raises(ck.ModelError, match="unexpected keyword argument 'y'"):
        ck.tune(recipe, nets.net, study=tmp_path / "study", progress=False)


def test_what_a_trial_leaves_behind_ends_with_it(nets, write, tmp_path):
    left = write("left.py", LEAVES)
    host = ck.load_host([left])
    recipe = write(
        "left.yaml", f"{RECIPE}steps: [{{choices: [left: {{components: [model]}}, null]}}]\n"
    )
    found = ck.tune(recipe, nets.net, host=host, study=tmp_path / "study", progress=False)
    assert [trial.state for trial in found.trials][:1] == ["measured"]
    pid = int((tmp_path / "pid").read_text())
    assert until(lambda: not is_alive(pid))


ASKING = """
import os, sys
sys.path.insert(0, {folder!r})
import {name} as nets
import compilekit as ck
from compilekit.studies.tune import search
search.THOROUGH = 1
host = ck.load_host([{plugin!r}])
found = ck.tune({recipe!r}, nets.net, host=host, study={study!r}, minutes=5)
print(found.verdict)
"""


@pytest.mark.parametrize("kept", [1, *(pytest.param(n, marks=pytest.mark.full) for n in (2, 3, 4))])
def test_after_kill_9_nothing_is_measured_twice(nets, write, tmp_path, kept):
    plugin = write("planted.py", PLANTED)
    study = tmp_path / "study"
    recipe = str(write("planted.yaml", choosing("slow", "raise", "fast")))
    names = {"folder": str(tmp_path), "name": nets.__name__, "recipe": recipe}
    code = ASKING.format(**names, plugin=str(plugin), study=str(study))
    asking = [sys.executable, str(write("asking.py", code))]

    def lines():
        file = study / FILE
        return file.read_text().splitlines() if file.exists() else []

    first = subprocess.Popen(
        [*LISTENING, *asking], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        assert until(lambda: len(lines()) > kept, 120)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    before = lines()
    done = subprocess.run(asking, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1."), done.stdout
    whole = [line for line in before if _is_whole(line)]
    assert lines()[: len(whole)] == whole
    keys = [known["key"] for line in lines() if "key" in (known := json.loads(line))]
    assert len(keys) == len(set(keys))


def _is_whole(line):
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def test_the_command_tunes_a_pipeline_and_writes_a_recipe(tmp_path, write):
    tiny_pipeline("sd").save_pretrained(tmp_path / "sd")
    said = {"compilekit": 1, "name": "t", "target": {"device": "cpu"}, "sample": SAMPLE}
    steps = [{"choices": [{"channels_last": {"components": ["unet"]}}, None]}]
    path = write("t.yaml", json.dumps({**said, "steps": steps}))
    output = tmp_path / "out" / "fast.yaml"
    done = command("tune", path, tmp_path / "sd", "--minutes", 3, "--output", output)
    assert done.returncode == 0, done.stderr
    assert "faster than" in done.stdout.splitlines()[0]
    assert f"{output} has the recipe" in done.stdout
    assert "trial 1, " in done.stderr
    tuned = ck.Recipe.load(output)
    assert tuned.name == "t"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"minutes": float("nan")}, "minutes is nan, and must be a number above 0"),
        ({"minutes": True}, "minutes is True, and must be a number above 0"),
        ({"for_": "load"}, 'for_="load": say "apply" or "build"'),
        ({"memory": "much"}, 'memory: "much"'),
        ({"study": 3}, "a study is the path of a folder"),
        ({"pipeline": object()}, "each trial runs in its own process"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, said):
    with pytest.raises(ck.UsageError) as raised:
        ck.tune(**{"pipeline": "no-such-model", "progress": False, **arguments})
    assert str(raised.value).startswith(said)


def test_a_recipe_without_choices_leaves_nothing_to_tune(nets, tmp_path):
    recipe = ck.Recipe.parse(RECIPE + "steps: [precision: {dtype: float32}]\n")
    with pytest.raises(ck.UsageError, match=r"^the recipe leaves nothing to choose: write"):
        ck.tune(recipe, nets.net, study=tmp_path / "study", progress=False)


@pytest.mark.parametrize("text", ["[]\n", "{}\n", '{"study": 9, "subject": {}}\n'])
def test_a_folder_that_holds_no_study_is_refused(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ck.UsageError, match="name another folder, or remove it"):
        ck.tune(pipeline="no-such-model", study=tmp_path, progress=False)
