"""The verdict in words: whether the finished model is faster. Light: no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

from compilekit.report.data import Speed, Verdict

MARGIN = 0.03
"""The same code on the same weights differs by this much, as they lie elsewhere in memory."""

WIDEST = 1.5
"""An interval that is wider than this factor does not show that two times are the same."""

SAME = "no measurable difference"


class Measured(Protocol):
    """How many times faster something is, and the interval that holds the true value."""

    @property
    def speedup(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def kind(measured: Measured) -> Literal["faster", "slower", "same"]:
    """What can be said for sure."""
    if measured.low > 1 and measured.speedup > 1 + MARGIN:
        return "faster"
    if measured.high < 1 and measured.speedup < 1 / (1 + MARGIN):
        return "slower"
    return "same"


def sentence(verdict: Verdict, error: str = "") -> str:
    """The verdict: `1.62x faster than as loaded (0.52 s against 0.84 s, ...)`.

    error: what follows on the error.
    """
    times = f"{shown_seconds(verdict.seconds)} against {shown_seconds(verdict.seconds_as_loaded)}"
    between = f"{verdict.low:.2f}x to {verdict.high:.2f}x"
    how = kind(verdict)
    is_wide = verdict.high > WIDEST * verdict.low and not verdict.not_in_turn
    if how == "same" and is_wide:
        return (
            f"times vary too much to tell a difference from the model as loaded ({between}){error}"
        )
    if how == "same":
        return f"{SAME} from the model as loaded ({between}){error}"
    if how == "faster":
        return f"{verdict.speedup:.2f}x faster than as loaded ({times}; {between}){error}"
    between = f"{1 / verdict.high:.2f}x to {1 / verdict.low:.2f}x"
    slower = f"{1 / verdict.speedup:.2f}x SLOWER than as loaded ({times}; {between}){error}"
    return f"{slower}. {blame(verdict)}" if blame(verdict) else slower


def blame(verdict: Verdict) -> str:
    """Which step made it slower, and why."""
    if not verdict.blame:
        return ""
    because = f": {verdict.because}" if verdict.because else ""
    return f"`{verdict.blame}` is to blame ({verdict.blamed:.2f}x){because}"


def speed_lines(verdict: Verdict) -> Iterator[str]:
    """Each entry point: its time now and as loaded; and how that was measured, if not in turn."""
    yield from map(_speed_line, verdict.entries)
    if verdict.not_in_turn:
        yield f"speed was measured before and after, not in turn: {verdict.not_in_turn}"


def _speed_line(speed: Speed) -> str:
    calls = f"{speed.calls} call{'s' * (speed.calls != 1)} in the sample"
    times = f"{shown_seconds(speed.seconds)} against {shown_seconds(speed.seconds_as_loaded)}"
    between = f"{speed.low:.2f}x to {speed.high:.2f}x"
    return f"speed of {speed.entry}: {times}, {speed.speedup:.2f}x ({between}), {calls}"


def shown_seconds(value: float) -> str:
    """Seconds for people: `0.52 s`, `45.6 ms`."""
    return f"{value:.2f} s" if value >= 0.1 else f"{value * 1e3:.3g} ms"  # noqa: PLR2004
