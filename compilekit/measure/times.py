"""Times: one run, several runs, and two that take turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

SURE = 0.95
"""How sure the interval of a median is, at least."""


def timed(run: Callable[[], T], wait: Callable[[], None]) -> tuple[float, T]:
    """The seconds that a run takes, and what it returns. `wait` waits for the device."""
    wait()
    start = time.perf_counter()
    result = run()
    wait()
    return time.perf_counter() - start, result


def several(
    once: Callable[[], float],
    *,
    least: int,
    most: int,
    seconds: float = math.inf,
    is_enough: Callable[[Sequence[float]], bool] = lambda _: False,
) -> list[float]:
    """Repeat a measurement: at least and at most so often, and for so many seconds.

    is_enough: ends it earlier, by what was measured.
    """
    start = time.perf_counter()
    times: list[float] = []
    while len(times) < least or (
        len(times) < most and time.perf_counter() - start < seconds and not is_enough(times)
    ):
        times.append(once())
    return times


def ratios_in_turn(
    one: Callable[[], float],
    other: Callable[[], float],
    *,
    least: int,
    most: int,
    seconds: float,
    is_enough: Callable[[Sequence[float]], bool] = lambda _: False,
) -> list[float]:
    """The time of one over that of the other, measured in turn: A B, B A, A B, ...

    A machine is slower at one moment than at another, for both alike. So their ratio means
    something even when their times do not.
    """
    pairs = in_turn(one, other)

    def ratio() -> float:
        first, second = next(pairs)
        return first / second

    return several(ratio, least=least, most=most, seconds=seconds, is_enough=is_enough)


def in_turn(one: Callable[[], float], other: Callable[[], float]) -> Iterator[tuple[float, float]]:
    """Pairs of measurements without end, one and other: A B, B A, A B, ..."""
    while True:
        first = one()
        yield first, other()
        second = other()
        yield one(), second


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The interval that holds the true median, whatever the distribution of the values.

    As many values as possible are cut off at each end: each value lies below the median as often
    as above it.
    """
    ordered, count = sorted(values), len(values)
    cut, outside = 0, 0.5**count
    while 2 * (outside + math.comb(count, cut + 1) * 0.5**count) < 1 - SURE:
        cut += 1
        outside += math.comb(count, cut) * 0.5**count
    return ordered[cut], ordered[-1 - cut]
