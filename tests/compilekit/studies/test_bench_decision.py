"""When a comparison is over, and what it says: on planted times, without a clock."""

from __future__ import annotations

import itertools
import random

import pytest

import compilekit as ck
from compilekit.base.progress import Progress
from compilekit.engine.pace import Pace
from compilekit.studies.bench import beside
from compilekit.studies.bench.beside import Effort, Runner, in_turn, pace_of
from compilekit.studies.bench.data import Comparison
from compilekit.studies.bench.result import Bench
from compilekit.studies.bench.run import adopted, as_loaded, different_samples
from compilekit.studies.bench.slowdown import share_of
from compilekit.studies.bench.text import too_slow, verdict

MOST = 300
ROW = ck.BenchRow(1, images=1, first=2.0, seconds=1.0, least=0.9, most=1.1, peak=0)


def runner(name, times):
    """A variant that takes these times."""
    turns = iter(times)

    def ask(_):
        seconds = next(turns)
        return {"seconds": seconds, "least": seconds, "most": seconds, "peak": 0}

    return Runner(name, ask, {})


def compared(ratio, noise, seed, effort=None):
    """What is found of a recipe that takes so many times as long, on a noisy machine."""
    draw = random.Random(seed)
    machine = [draw.uniform(1, 2) for _ in range(MOST + 4)]  # it is slower at times, for both

    def times(factor):
        return (factor * draw.lognormvariate(0, noise) * speed for speed in machine)

    effort = effort or Effort(5, 3600)
    return in_turn(runner("a", times(ratio)), runner("b", times(1.0)), 1, effort, effort.is_enough)


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.1])
@pytest.mark.parametrize(
    ("ratio", "said"), [(1.0, "noise"), (1.1, "slower"), (1.62, "slower"), (0.9, "faster")]
)
def test_nine_of_ten_verdicts_are_right(ratio, said, noise):
    found = [compared(ratio, noise, seed).verdict for seed in range(10)]
    assert found.count(said) >= 9, found
    assert set(found) <= {said, "untold", "noise"}, found


def test_a_clear_difference_needs_few_pairs_and_a_small_one_more():
    assert compared(2.0, 0.01, 0).pairs == 5
    assert compared(1.1, 0.05, 0).pairs > 5


def comparison(ratio, low, high):
    return Comparison(1, 20, Pace(ratio, low, high))


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ((1.06, 1.03, 1.08), (1.0, 0.97, 1.03), "noise"),
        ((1.06, 1.03, 1.08), (0.94, 0.92, 0.97), "noise"),
        ((1.06, 1.03, 1.08), (1.08, 1.05, 1.1), "slower"),
        ((1.08, 1.03, 1.12), (0.99, 0.94, 1.03), "noise"),
        ((1.2, 1.15, 1.24), (1.01, 0.98, 1.04), "untold"),
        ((0.93, 0.91, 0.96), (0.95, 0.93, 0.96), "faster"),
    ],
)
def test_a_small_difference_must_be_there_in_other_processes_too(first, second, said, monkeypatch):
    found = iter([comparison(*first), comparison(*second)])

    def compared(*_, **__):
        return Bench("new", "cpu", [ROW], setup=1.0, runs=5, comparisons=[next(found)])

    monkeypatch.setattr(beside, "_compared", compared)
    result = beside.compare(None, None, Effort(5, 60), Progress(enabled=False))
    assert [c.verdict for c in result.comparisons] == [said]
    assert result.comparisons[0].pairs == 40


def test_a_large_difference_is_not_measured_again(monkeypatch):
    found = Bench("a", "cpu", [ROW], setup=1.0, runs=5, comparisons=[comparison(1.3, 1.28, 1.32)])
    answers = iter([found])
    monkeypatch.setattr(beside, "_compared", lambda *_, **__: next(answers))
    assert beside.compare(None, None, Effort(5, 60), Progress(enabled=False)) is found


def test_a_limit_is_told_from_what_is_beyond_it():
    def pairs(effort):
        return sum(compared(1.2, 0.02, seed, effort).pairs for seed in range(5))

    assert pairs(Effort(5, 3600)) < 50 < pairs(Effort(5, 3600, limit=0.2))


def test_runs_are_the_least_and_no_time_means_no_more():
    assert compared(2.0, 0.01, 0, Effort(12, 3600)).pairs == 12
    assert compared(1.0, 0.1, 0, Effort(3, 0)).pairs == 3
    assert pace_of([1.0] * 5000) == Pace(1.0, 1.0, 1.0)


def test_the_first_turn_of_each_warms_up():
    one = runner("a", itertools.chain([50.0], itertools.repeat(1.0)))
    other = runner("b", itertools.chain([70.0], itertools.repeat(1.0)))
    effort = Effort(5, 3600)
    found = in_turn(one, other, 1, effort, effort.is_enough)
    assert (found.pace, found.pairs, found.verdict) == (Pace(1, 1, 1), 5, "noise")
    one.add_row(1, {"images": 1, "seconds": 50.0})
    assert one.rows[0].most == 1.0


def bench(pace, pairs=9, batch=1):
    other = ck.Bench("the model as loaded", "cpu", [ROW], setup=0.0, runs=5)
    comparison = Comparison(batch, pairs, pace)
    return ck.Bench(
        "sd", "cpu", [ROW], setup=9.0, runs=5, against=other, comparisons=[comparison]
    ), comparison


@pytest.mark.parametrize(
    ("pace", "pairs", "batch", "said"),
    [
        (
            Pace(0.617, 0.588, 0.645),
            9,
            1,
            "sd is 1.62x faster than the model as loaded (1.55x to 1.70x)",
        ),
        (
            Pace(1.31, 1.25, 1.4),
            9,
            8,
            "sd is 1.31x SLOWER than the model as loaded (1.25x to 1.40x), in a batch of 8",
        ),
        (
            Pace(1.0, 0.98, 1.02),
            9,
            1,
            "no measurable difference between sd and the model as loaded (0.98x to 1.02x)",
        ),
        (
            Pace(1.0, 0.5, 2.0),
            9,
            1,
            "which of sd and the model as loaded is faster cannot be told: its times vary too much "
            "here (0.50x to 2.00x)",
        ),
        (
            Pace(1.05, 0.92, 1.35),
            9,
            1,
            "which of sd and the model as loaded is faster cannot be told: its times vary too much "
            "here (0.74x to 1.09x)",
        ),
        (
            Pace(0.5, 0.5, 0.5),
            1,
            1,
            "which of sd and the model as loaded is faster cannot be told: it needs 5 pairs "
            "of turns, and had 1 (2.00x to 2.00x)",
        ),
    ],
)
def test_the_verdict_is_a_sentence(pace, pairs, batch, said):
    found, comparison = bench(pace, pairs, batch)
    assert verdict(found, comparison) == said
    assert str(found).splitlines()[0] == said


def test_only_what_lies_beyond_the_limit_as_a_whole_is_too_slow():
    assert too_slow(bench(Pace(1.2, 1.04, 1.3))[0], 0.05) == []
    assert too_slow(bench(Pace(1.2, 1.1, 1.3), pairs=4)[0], 0.05) == []
    assert too_slow(bench(Pace(1.2, 1.06, 1.3))[0], 0.05) == [
        "in a batch of 1, sd takes 1.20x the time of the model as loaded (1.06x to 1.30x), and at "
        "most 1.05x is allowed"
    ]


@pytest.mark.parametrize(
    ("text", "share"),
    [(None, None), ("5%", 0.05), ("0.05", 0.05), (0.05, 0.05), (0, 0), ("150 %", 1.5)],
)
def test_a_share_is_a_percentage_or_a_number_below_one(text, share):
    assert share_of(text) == share


@pytest.mark.parametrize("text", ["", "five", "5", 5, "-1%", "nan", "inf%", True, "%"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(ck.UsageError, match=r'^max_slowdown is ".*": say how much longer'):
        share_of(text)


def test_one_pace_is_the_median_with_its_interval():
    assert pace_of([1.0, 2.0, 3.0]) == Pace(2.0, 1.0, 3.0)


def test_as_loaded_keeps_the_steps_that_mean_to_change_results():
    steps = "scheduler{name=EulerDiscreteScheduler}, channels_last{components=unet}"
    kept = as_loaded(ck.plan(ck.Recipe.from_steps(steps)))
    assert [step.plugin for step in kept.steps] == ["scheduler"]


def test_the_other_gets_the_model_and_sample_that_it_lacks(write, tmp_path):
    text = "compilekit: 1\ntarget: {device: cpu}\n"
    whole = ck.Recipe.load(
        write("a.yaml", text + "model: {source: a/b}\nsample: {image: a.png, seed: 3}\n")
    )
    bare = ck.Recipe.parse(text + "name: bare\n")
    found = adopted(bare, whole)
    assert (found.name, found.model.source, found.seed) == ("bare", "a/b", 3)
    assert found.sample["image"] == str(tmp_path / "a.png")
    own = ck.Recipe.parse(text + "model: {source: c/d}\nsample: {prompt: a cat}\n")
    assert adopted(own, whole) == own
    assert different_samples(own, own) == []
    assert different_samples(own, whole) == [
        "their samples differ: image is None and 'a.png', prompt is 'a cat' and None"
    ]
