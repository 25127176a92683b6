"""How an explanation judges times and changes."""

from __future__ import annotations

import random
import time

import pytest
import torch
import torch._dynamo
from torch import nn

from compilekit.engine.pace import Pace, Pacer
from compilekit.engine.recording import record
from compilekit.measure.times import interval
from compilekit.model import Model
from compilekit.studies.explain import text
from compilekit.studies.explain.data import ExplainedStep, Moved, Timing
from compilekit.studies.explain.judge import grouped, timing, verdict

INPUTS = {"x": torch.linspace(-1, 1, 32).reshape(4, 8)}


def test_reasons_that_differ_in_more_than_numbers_are_groups_of_their_own():
    found = grouped({"a": "2 rows of 5", "b": "no pattern", "c": "3 rows of 5", "d": "5 rows of 5"})
    assert [(each.reason, each.names) for each in found] == [
        ("2 to 5 rows of 5", ["a", "c", "d"]),
        ("no pattern", ["b"]),
    ]


def step_of(*timings):
    return ExplainedStep(
        key="act", verdict="untold", changes=[], matched=1, changed=1,
        bytes_before=0, bytes_after=0, budget=1, timings=list(timings),
        moved=[Moved(entry="unet", change=0.0, error=0.0, rounding=True, over_budget=False)],
    )  # fmt: skip


def _step_lines(step):
    return [text._meaning(step), *text._step(step)]


@pytest.mark.parametrize(
    ("large", "small", "said"),
    [
        (0.8, 1.5, "faster"),
        (1.25, 0.5, "slower"),
        (1.0, 0.5, "faster"),
        (1.0, 1.5, "slower"),
        (1.0, 1.0, "dead"),
        (0.95, 1.5, "changed"),
    ],
)
def test_the_parts_that_take_most_of_the_time_decide(large, small, said):
    step = step_of(
        timing("unet", Pace(large, large - 0.02, large + 0.02)),
        timing("vae.decode", Pace(small, small - 0.02, small + 0.02)),
    )
    assert verdict(step, {"unet": 9.0, "vae.decode": 1.0}) == said


@pytest.mark.parametrize("count", [7, 9, 15, 25])
def test_the_interval_of_a_median_holds_it_as_often_as_it_says(count):
    draw = random.Random(count)
    held = 0
    for _ in range(2000):
        low, high = interval([draw.lognormvariate(0, 1) for _ in range(count)])
        held += low <= 1 <= high
    assert held / 2000 > 0.94
    # It cuts off what can be cut off.
    values = list(range(count))
    assert interval(values) == {7: (0, 6), 9: (1, 7), 15: (3, 11), 25: (7, 17)}[count]


@pytest.mark.parametrize(
    ("pace", "verdict"),
    [
        (Pace(1.02, 1.01, 1.03), "noise"),
        (Pace(1.2, 0.99, 1.4), "noise"),
        (Pace(1.2, 1.1, 1.3), "slower"),
        (Pace(0.8, 0.7, 0.9), "faster"),
        (Pace(0.8, 0.7, 1.0), "noise"),
        (Pace(1.0, 0.8, 1.21), "untold"),
        (Pace(1.4, 0.01, 2.64), "untold"),
        (Pace(3.0, 2.0, 4.0), "slower"),
    ],
)
def test_a_pace_is_judged_by_its_interval(pace, verdict):
    assert pace.verdict == verdict
    assert pace.against(Pace(1.0, 1.0, 1.0)).verdict == verdict
    assert pace.against(pace).verdict in ("noise", "untold")


@pytest.mark.parametrize("compiles", [False, True])
def test_a_step_whose_times_vary_too_much_is_neither_dead_nor_without_gain(compiles):
    step = step_of(timing("unet", Pace(1.0, 0.01, 2.64)))
    step.verdict = verdict(step, {"unet": 1.0}, compiles=compiles)
    assert step.verdict == "untold"
    assert _step_lines(step) == [
        "cannot be told here: it changes time alone, if anything, and the times vary too much",
        "changed 1 of 1 (); weights 0 B, as before",
        "outputs are the same to the bit; budget 1",
        "unet: cannot be told here: its times vary too much (0.01 to 2.64 of the time before)",
    ]
    untimed = step_of(Timing(entry="unet"))
    assert text._meaning(untimed) == (
        "untold: it changes time alone, if anything, and that cannot be told yet"
    )


def test_the_copy_is_timed_with_the_settings_of_the_process_as_they_were():
    class Heeding(nn.Linear):
        def forward(self, x):
            time.sleep(0.03 if torch.get_float32_matmul_precision() == "medium" else 0.005)
            return nn.functional.linear(x, self.weight)

    model = Model(Heeding(8, 8).eval(), INPUTS)
    recording, _ = record(model.entry_points("model"), lambda: model.run({}, 0))
    pacer = Pacer(model, recording.calls)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        pace = pacer.paces(["model"])["model"]
    finally:
        torch.set_float32_matmul_precision(before)
    assert pace.verdict == "slower"
    assert 3 < pace.ratio < 8
