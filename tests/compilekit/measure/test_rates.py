"""How rates are measured: in turns, the fastest run counts, in the largest size that is quick."""

from __future__ import annotations

import types

import pytest
import torch

from compilekit.measure import rates
from compilekit.measure.rates import Work


@pytest.fixture
def clock(monkeypatch):
    """Time goes on only by what is run."""
    now = types.SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(rates, "time", types.SimpleNamespace(perf_counter=lambda: now.seconds))
    monkeypatch.setattr(rates, "SECONDS", {"cpu": 3.5})
    monkeypatch.setattr(rates, "TURN", {"cpu": 0.04})
    return now


def work(clock, speed, sizes=(1, 2, 4, 8, 16)):
    """Work whose run takes its size by the speed that the machine has just now."""

    def make(size):
        def run():
            clock.seconds += size / speed()

        return run

    return Work("cpu", sizes, float, make)


def test_the_largest_size_that_is_quick_is_taken(clock):
    each = work(clock, lambda: 1000.0)
    each.choose()
    assert (each.size, each.best) == (4, pytest.approx(1000.0))


def test_what_is_slow_in_every_size_is_run_in_the_smallest(clock):
    each = work(clock, lambda: 10.0)
    each.choose()
    each.turn()
    assert (each.size, each.best) == (1, pytest.approx(10.0))


def test_the_fastest_run_of_all_turns_counts(clock):
    each = work(clock, lambda: 2000.0 if 0.5 < clock.seconds < 0.6 else 1000.0, sizes=(1,))
    each.choose()
    while clock.seconds < 1.0:
        each.turn()
    assert each.best == pytest.approx(2000.0)


def test_each_kind_of_work_gets_turns_over_the_whole_time(clock, monkeypatch):
    begun = {}

    def turn(self):
        begun.setdefault(id(self), []).append(clock.seconds)
        clock.seconds += 0.05

    monkeypatch.setattr(Work, "choose", lambda self: setattr(self, "best", 1.0))
    monkeypatch.setattr(Work, "turn", turn)
    found = rates._rates("cpu")
    assert found.matmul == found.convolution == dict.fromkeys(rates.NUMBERS, 1.0)
    assert len(begun) == 9
    assert {len(turns) for turns in begun.values()} == {7}
    assert all(turns[0] < 0.5 and turns[-1] > 2.5 for turns in begun.values())
    assert clock.seconds < 3.5


def test_however_slow_a_machine_is_each_kind_is_measured_once(clock, monkeypatch):
    monkeypatch.setattr(Work, "choose", lambda self: None)
    monkeypatch.setattr(Work, "turn", lambda self: setattr(self, "best", 1.0) or slow(clock))
    assert len(rates._rates("cpu").matmul) == 4
    assert clock.seconds == 90.0


def slow(clock):
    clock.seconds += 10.0


def test_numbers_that_a_device_cannot_compute_with_are_left_out(clock, monkeypatch):
    def product(one, other):
        raise RuntimeError('"addmm_impl_cpu_" not implemented')

    monkeypatch.setattr(rates, "int8_matmul", product)
    monkeypatch.setattr(Work, "turn", lambda self: slow(clock))
    monkeypatch.setattr(Work, "_seconds", lambda self, run: run() is None or 1.0)
    assert set(rates._rates("cpu").matmul) == {"float32", "bfloat16", "float16"}


def test_no_more_threads_are_used_than_there_are_cores(monkeypatch):
    used = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(rates, "cores", lambda: 2)
    monkeypatch.setattr(rates, "_rates", pytest.fail)
    with pytest.raises(pytest.fail.Exception):
        rates.measured()
    assert used == [2, 64]


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [
        ((10.0, 5.0, 1.0), (20.0, 14.0, 6.0), 0.4),
        ((10.0, 5.0, 1.0), (20.0, 10.0, 6.0), 0.0),
        ((10.0, 5.0, 1.0), (20.0, 9.0, 6.0), 0.0),  # the kernel counts in steps
        ((10.0, 5.0, 1.0), (10.0, 5.0, 1.0), 0.0),
    ],
)
def test_what_others_took_is_a_share_of_the_cores(before, after, share):
    assert rates._taken_by_others(before, after) == pytest.approx(share)


def test_the_random_numbers_of_the_caller_stay_as_they_are():
    before = torch.get_rng_state()
    rates.measured()
    assert torch.equal(torch.get_rng_state(), before)
