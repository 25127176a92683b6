"""The largest batch that fits: each trial in a process of its own."""

from __future__ import annotations

import functools
import json
import math
import pickle
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from support import SAMPLE

import compilekit as ck
from compilekit.api.job import JobElsewhere
from compilekit.model import Model
from compilekit.studies.batch.limits import is_memory, share_or_bytes
from compilekit.studies.batch.process import WORKER
from compilekit.studies.batch.request import Request
from compilekit.studies.batch.search import search
from compilekit.studies.batch.trial import generators
from compilekit.subject.sizes import sized, unit_of
from compilekit.testing import tiny_pipeline
from compilekit.workers.client import SERVE

NETS = """
import os, signal, time
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.act = act

    def forward(self, x):
        self.act(x)
        return x * 2

def from_two_on(act):
    return Net(lambda x: act() if len(x) >= 2 else None).eval()

def quick():
    return Net(lambda x: None).eval()

def hungry():  # 100 MB for each
    return Net(lambda x: torch.ones(len(x) * 25_000_000, device=x.device)).eval()

def slow():
    return Net(lambda x: time.sleep(600)).eval()

def failing():
    return from_two_on(lambda: [].pop())

def killed():
    return from_two_on(lambda: os.kill(os.getpid(), signal.SIGKILL))

def crashing():
    return from_two_on(lambda: (print("what it said last"), os._exit(7)))
"""

RECIPE = "compilekit: 1\ntarget: {device: cpu}\nmodel: {inputs: {x: {shape: [1, 2]}}}\n"


def largest(make, recipe=RECIPE, **more):
    return ck.largest_batch(
        ck.Recipe.parse(recipe), make, **{"limit": 4, "progress": False, **more}
    )


def tried(found):
    return [(trial.batch, trial.fits) for trial in found.trials]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 64, 70])
def test_the_search_finds_the_largest_in_few_trials(limit):
    for wanted in range(limit + 1):
        asked = []

        def fits(size, wanted=wanted, asked=asked):
            asked.append(size)
            return size <= wanted

        assert search(fits, limit) == wanted
        assert len(asked) == len(set(asked)) <= 2 * math.log2(limit + 1) + 2
        assert max(asked) <= limit


@pytest.mark.full
def test_a_trial_is_held_to_its_memory(nets):
    found = largest(nets.hungry, memory="1 GB", limit=16)
    assert 2 <= found.largest <= 8
    first = next(trial for trial in found.trials if not trial.fits)
    assert re.fullmatch(r"running the sample: no memory for [\d.]+ [MG]B more", first.why)
    peaks = [trial.peak for trial in found.trials if trial.fits]
    assert peaks == sorted(peaks)
    assert 70e6 < (peaks[1] - peaks[0]) < 130e6
    assert peaks[-1] < 1.1e9
    assert found.unit == "samples"


def test_where_not_even_one_fits_that_is_an_error_with_the_reason(nets):
    with pytest.raises(ck.MachineError, match=r"^not even a batch of 1 fits: [^:]+: no memory"):
        largest(nets.hungry, memory="300MB")


def test_a_trial_that_is_killed_did_not_fit(nets):
    found = largest(nets.killed)
    assert tried(found) == [(1, True), (2, False)]
    why = "running the sample: the system killed it, which it does when memory runs out"
    assert found.trials[1].why == why


def test_another_error_ends_the_search_at_once(nets):
    seen = []
    with pytest.raises(ck.ModelError, match=r"^batch 2: .*IndexError: pop from empty list$"):
        largest(nets.failing, on_trial=seen.append)
    assert [(trial.batch, trial.fits) for trial in seen] == [(1, True)]


def test_a_crash_ends_the_search_with_what_was_said_last(nets):
    with pytest.raises(ck.StepError) as error:
        largest(nets.crashing)
    assert str(error.value) == (
        "batch 2: the trial died while running the sample: exit code 7\n  what it said last"
    )


def test_a_trial_that_takes_too_long_is_ended(nets):
    start = time.monotonic()
    with pytest.raises(ck.MachineError, match=r": it took longer than 2 s$"):
        largest(nets.slow, timeout=2)
    assert time.monotonic() - start < 60


WATCH = """
import compilekit as ck
class Options(ck.Options):
    file: str
    compiles: bool = False
@ck.hookimpl
def describe():
    return ck.StepDescription(
        help="Look.", options=Options,
        effects=lambda o, d: ck.effects("compiled" if o.compiles else "runtime"),
    )
@ck.hookimpl
def optimize_model(model, options, context):
    entry = model.entry_point("model")
    before, seen = entry.function, []
    def look(x):
        seen.append(len(x))
        return before(x)
    with entry.standing_in(look):
        context.replay("model")
    with open(options.file, "a") as file:
        print(context.step.index, sorted(set(seen)), file=file)
    found = {"model": ["it"]}
    return ck.StepResult(matched=found, changed=found)
"""


@pytest.mark.full
def test_what_compiles_sees_the_batch_and_other_steps_see_one(nets, write, tmp_path):
    log = tmp_path / "log"
    steps = "".join(
        f"  - watch: {{components: [model], file: {log}, compiles: {str(compiles).lower()}}}\n"
        for compiles in (False, True)
    )
    host = ck.load_host([write("watch.py", WATCH)])
    largest(nets.quick, f"{RECIPE}steps:\n{steps}", limit=2, host=host)
    assert log.read_text().splitlines() == ["0 [1]", "1 [1]", "0 [1]", "1 [2]"]


def test_a_model_that_another_process_cannot_make_is_refused(nets):
    for make, said in (
        (nets.quick(), r"not a Net$"),
        (Prompted(), r"not a Prompted$"),
        (functools.partial(nets.Net, lambda x: x), "cannot be sent to another process"),
    ):
        with pytest.raises(ck.UsageError, match=said):
            largest(make)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"limit": 0}, "the largest batch to try is 0"),
        ({"timeout": 0}, "the time limit of a trial is 0 s"),
        ({"memory": "lots"}, 'memory: "lots" is not a size; write "20 GB"'),
        ({"memory": "101%"}, "not between 0 % and 100 %"),
        ({"memory": "0 GB"}, 'memory: "0 GB" is not a size'),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_runs(options, said):
    with pytest.raises(ck.UsageError, match=said):
        largest(None, **options)


def test_a_limit_that_would_not_hold_is_refused():
    with pytest.raises(ck.UsageError, match='memory: a trial on "mps" can be held to no limit'):
        largest(None, RECIPE.replace("cpu", "mps"), memory="8 GB")


def test_a_size_is_bytes_or_a_share():
    assert share_or_bytes("8GB") == (None, 8_000_000_000)
    assert share_or_bytes("12.5 %") == (0.125, None)


def test_more_memory_than_is_free_is_warned_of(nets, capsys):
    ck.largest_batch(ck.Recipe.parse(RECIPE), nets.quick, memory="900 TB", limit=1)
    warning = r"warning: 9e\+05 GB is more than the [\d.]+ GB that are free here: .* swap"
    assert re.search(warning, capsys.readouterr().err)


def test_what_libraries_say_when_memory_runs_out_is_known():
    allocator = "[enforce fail] DefaultCPUAllocator: you tried to allocate 33554432 bytes. Error 12"
    inner = RuntimeError(f"{allocator} (Cannot allocate memory)")
    outer = ck.StepError(f"it no longer runs: {inner}")
    outer.__cause__ = inner
    assert is_memory(outer) == "no memory for 33.6 MB more"
    cuda = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
    assert is_memory(cuda) == "no memory for 2.00 GiB more"
    assert is_memory(MemoryError()) == "no memory left"
    assert is_memory(RuntimeError("std::bad_alloc")) == "no memory left (std::bad_alloc)"
    assert is_memory(ValueError("no such thing")) == ""


def test_the_table_ends_with_the_largest_and_the_fastest():
    trials = [
        ck.BatchTrial(1, 1.0, 600_000_000),
        ck.BatchTrial(2, 1.5, 800_000_000),
        ck.BatchTrial(3, 3.0, 900_000_000),
        ck.BatchTrial(4, why="running the sample: no memory left"),
    ]
    assert str(ck.Batches(trials, limit=64)) == (
        "batch  seconds a run  images/s  peak memory  fits\n"
        "1      1              1         600 MB       yes\n"
        "2      1.5            1.33      800 MB       yes\n"
        "3      3              1         900 MB       yes\n"
        "4      -              -         -            no: running the sample: no memory left\n"
        "largest batch: 3; fastest: 2, 1.33 images/s"
    )
    assert "largest batch: 3 or more; " in str(ck.Batches(trials[:3], limit=3))
    assert str(ck.Batches(trials[3:], limit=64)).endswith("\nno batch fits")


def batched(model, sample, count):
    return sized(model, sample, {"batch": count}, by="images")


ARGUMENTS = {key: value for key, value in SAMPLE.items() if key != "seed"}


def test_each_image_of_a_batch_is_the_one_that_its_own_seed_gives():
    model = Model(tiny_pipeline("sd"))

    def drawn(count, seed):
        arguments = batched(model, ARGUMENTS, count) | generators(model, seed, count)
        return model.run(arguments, 0).images

    three = drawn(3, 7)
    assert len(three) == 3
    for index in range(3):
        np.testing.assert_allclose(three[index], drawn(1, 7 + index)[0], atol=1e-4)


class Prompted:
    """A pipeline that takes prompts, and no number of images."""

    components = {"net": torch.nn.Linear(2, 2)}  # noqa: RUF012

    def __call__(self, prompt, negative_prompt=None): ...


class Counted(Prompted):
    """One that takes neither."""

    def __call__(self, batch_size=1, generator=None): ...


class Wordless(Prompted):
    def __call__(self, steps=1): ...


def test_the_batch_is_what_the_pipeline_takes():
    sample = {"prompt": ["a cat", "a dog"], "negative_prompt": "blurry"}
    counted = batched(Model(tiny_pipeline("sd")), sample, 3)
    assert counted == {"prompt": "a cat", "negative_prompt": "blurry", "num_images_per_prompt": 3}
    prompted = Model(Prompted())
    assert batched(prompted, sample, 3) == {
        "prompt": ["a cat", "a dog", "a cat"],
        "negative_prompt": ["blurry", "blurry", "blurry"],
    }
    assert generators(prompted, 0, 3) == {}
    assert batched(Model(Counted()), {}, 3) == {"batch_size": 3}
    assert unit_of(prompted) == "images"
    with pytest.raises(ck.ModelError, match="a Wordless takes none of num_images_per_prompt, "):
        batched(Model(Wordless()), {}, 3)


def test_a_trial_ends_when_the_process_that_asked_is_gone(nets, tmp_path):
    order = JobElsewhere(ck.Recipe.parse(RECIPE), nets.slow, None, ())
    file = tmp_path / "request.pickle"
    file.write_bytes(pickle.dumps(Request(order, 1, None, None)))
    pipe = subprocess.PIPE
    command = [sys.executable, SERVE, WORKER]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True) as process:
        request = json.dumps({"path": sys.path, "cwd": str(tmp_path), "file": str(file)})
        process.stdin.write(request.encode() + b"\n")
        process.stdin.flush()
        assert any(b"running the sample" in line for line in process.stdout)
        process.stdin.close()
        assert process.wait(20) == -signal.SIGKILL


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_share_of_the_gpu_is_what_a_trial_may_take(nets):
    recipe = RECIPE.replace("cpu", "cuda")
    found = largest(nets.hungry, recipe, memory="2 GB", limit=64)
    assert 10 <= found.largest <= 20
    assert found.trials[-1].why.startswith("running the sample: no memory for ")
