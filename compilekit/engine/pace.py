"""Times that can be trusted: measured in turn with a copy of the model as it was loaded.

A machine is slower at one moment than at another, for both alike. So the ratio to the copy means
something where a time does not, and ratios that were taken minutes apart can be compared.
"""

from __future__ import annotations

import contextlib
import copy
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from compilekit.engine.recording import Call, time_call
from compilekit.measure import state
from compilekit.measure.times import interval, ratios_in_turn
from compilekit.subject.model import EntryPoint, Model

LEAST, MOST, SECONDS = 5, 25, 0.5
"""Pairs of calls that are timed in one round: at least, at most, and for how long."""

ROUNDS = 2
"""What disturbs the calls of one round may well spare those of another."""

MARGIN = 0.03
"""The same code on the same weights differs by this much, as they lie elsewhere in memory."""


WIDEST = 1.5
"""An interval that is wider than this factor does not show that two times are the same."""


@dataclass(frozen=True)
class Pace:
    """The time of one call over that of another: the median, and its interval."""

    ratio: float
    low: float
    high: float

    def against(self, other: Pace) -> Pace:
        """How this pace compares with another, both taken against the same copy."""
        return Pace(self.ratio / other.ratio, self.low / other.high, self.high / other.low)

    def and_again(self, other: Pace) -> Pace:
        """The same, measured twice: what both intervals hold is what is sure."""
        ratio = math.sqrt(self.ratio * other.ratio)
        return Pace(ratio, min(self.low, other.low), max(self.high, other.high))

    @property
    def verdict(self) -> Literal["faster", "slower", "noise", "untold"]:
        """What can be said for sure: nothing, where the interval is wide and holds 1."""
        if self.high < 1 and self.ratio < 1 / (1 + MARGIN):
            return "faster"
        if self.low > 1 and self.ratio > 1 + MARGIN:
            return "slower"
        return "untold" if self.high > WIDEST * self.low else "noise"


class Pacer:
    """Holds a copy of the recorded entry points as they are now, and times others beside it.

    why_not: why there is no copy, or no more; empty if there is one.
    """

    def __init__(self, model: Model, calls: Mapping[str, Sequence[Call]]) -> None:
        self.why_not = ""
        self._model = model
        self._calls = calls
        self._start = state.snapshot()
        self._copies: dict[str, EntryPoint] = {}
        entries = {name: model.entry_point(name) for name in calls}
        try:
            # In one go: entry points may share a module, or lie inside each other.
            owners = copy.deepcopy({name: entry.owner for name, entry in entries.items()})
        except Exception as error:  # noqa: BLE001 - a module of the user's own may raise anything
            self.why_not = f"the model cannot be copied ({_in_short(error)})"
            return
        self._copies = {name: replace(entry, owner=owners[name]) for name, entry in entries.items()}

    def paces(self, names: Iterable[str]) -> dict[str, Pace]:
        """How entry points compare with their copies: one after the other, and then again."""
        paces: dict[str, Pace] = {}
        known = [name for name in names if name in self._copies]
        try:
            for _ in range(ROUNDS):
                for name in known:
                    pace = self._in_turn(name)
                    paces[name] = paces[name].and_again(pace) if name in paces else pace
        except Exception as error:  # noqa: BLE001 - there may be no room for it, say
            self._copies.clear()
            self.why_not = f"a copy of the model does not run beside it ({_in_short(error)})"
            return {}
        return paces

    def _in_turn(self, name: str) -> Pace:
        now, then = self._model.entry_point(name), self._copies[name]
        calls = self._calls[name]
        call = calls[len(calls) // 2]
        has_changed = bool(self._start.diff(state.snapshot()))

        def seconds_now() -> float:
            return time_call(now, call, self._model.wait)

        def seconds_as_loaded() -> float:
            # Settings of the process are a step's work too: the copy runs without them.
            with _settings(self._start) if has_changed else contextlib.nullcontext():
                return time_call(then, call, self._model.wait)

        seconds_now()
        seconds_as_loaded()
        ratios = ratios_in_turn(
            seconds_now, seconds_as_loaded, least=LEAST, most=MOST, seconds=SECONDS
        )
        return Pace(statistics.median(ratios), *interval(ratios))


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


@contextlib.contextmanager
def _settings(earlier: state.State) -> Iterator[None]:
    now = state.snapshot()
    state.restore(earlier)
    try:
        yield
    finally:
        state.restore(now)
