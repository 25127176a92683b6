"""What a benchmark measures. Light: no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from compilekit.engine.pace import Pace

FEWEST = 5
"""So many pairs of turns are needed before anything can be said for sure."""

CLOSE = 0.1
"""How far from 1 an interval may reach that shows no measurable difference."""


SMALL = 1.25
"""Beside other work, processes with the same code were seen to differ by half of that."""


@dataclass(frozen=True)
class BenchRow:
    """One batch that was measured.

    batch: how many were asked for. images: how many came out: what pads a batch is not counted.
    first: the seconds of the first run, after the steps' own warm-up.
    seconds: the median of the other runs; for a batch of 1 that is the latency.
    least, most: the quickest and the slowest of them.
    peak: the most memory in use meanwhile: of the GPU where there is one, else of the process.

    >>> import compilekit as ck
    >>> ck.BenchRow(8, images=8, first=5.0, seconds=4.0, least=3.9, most=4.1, peak=0).rate
    2.0
    """

    batch: int
    images: int
    first: float
    seconds: float
    least: float
    most: float
    peak: int

    @property
    def rate(self) -> float:
        """How many come out each second."""
        return self.images / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Comparison:
    """How the recipe compares with the other in one batch.

    pairs: how often both were run, one after the other.
    pace: the recipe's time over the other's: `ratio`, and its interval from `low` to `high`.
    """

    batch: int
    pairs: int
    pace: Pace

    @property
    def verdict(self) -> Literal["faster", "slower", "noise", "untold"]:
        """What is sure. "noise": no measurable difference; "untold": times vary too much."""
        if self.pairs < FEWEST:
            return "untold"
        is_close = self.pace.low > 1 / (1 + CLOSE) and self.pace.high < 1 + CLOSE
        return "untold" if self.pace.verdict == "noise" and not is_close else self.pace.verdict

    @property
    def is_small(self) -> bool:
        """Whether it shows a difference, but one that two equal processes may have as well."""
        is_near = 1 / SMALL < self.pace.ratio < SMALL
        return is_near and self.verdict in ("faster", "slower")

    def with_(self, again: Comparison) -> Comparison:
        """The mean with what was measured in other processes: no difference, if those show none."""
        one, other = self.pace, again.pace
        low, high = math.sqrt(one.low * other.low), math.sqrt(one.high * other.high)
        if one.verdict != other.verdict:
            low, high = min(low, 1.0), max(high, 1.0)
        pace = replace(one, ratio=math.sqrt(one.ratio * other.ratio), low=low, high=high)
        return Comparison(self.batch, self.pairs + again.pairs, pace)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        shown = {"batch": self.batch, "pairs": self.pairs, "verdict": self.verdict}
        return {**shown, **asdict(self.pace)}


@dataclass(frozen=True, repr=False)
class Figures:
    """What was measured of a recipe; a `Bench` is the same with its text."""

    recipe: str
    device: str
    rows: Sequence[BenchRow]
    setup: float
    runs: int
    unit: str = "images"
    environment: Mapping[str, str] = field(default_factory=dict)
    load: float = 0.0
    steps: float = 0.0
    compiling: float | None = None
    against: Figures | None = None
    comparisons: Sequence[Comparison] = ()
    notes: Sequence[str] = ()

    @property
    def latency(self) -> float | None:
        """The seconds of one run of a batch of 1, if that was measured."""
        return next((row.seconds for row in self.rows if row.batch == 1), None)

    @property
    def first_image(self) -> float | None:
        """The seconds to the first image: load, steps without verification, and a run."""
        return self.load + self.steps + self.rows[0].first if self.rows else None
