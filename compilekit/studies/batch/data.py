"""What a search for the largest batch finds. Light: no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from compilekit.base.bytesize import size
from compilekit.base.columns import aligned

COLUMNS = ("batch", "seconds a run", "{}/s", "peak memory", "fits")


@dataclass(frozen=True)
class BatchTrial:
    """One batch that was tried.

    seconds: the median time of one run; None where it did not come to that.
    peak: the most memory in use while it ran: of the GPU where there is one, else of the process.
    why: why it does not fit; empty if it does.

    >>> import compilekit as ck
    >>> ck.BatchTrial(4, seconds=2.0).rate
    2.0
    """

    batch: int
    seconds: float | None = None
    peak: int | None = None
    why: str = ""

    @property
    def fits(self) -> bool:
        """Whether it ran."""
        return not self.why

    @property
    def rate(self) -> float:
        """How many come out each second; 0 where nothing does."""
        return self.batch / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, repr=False)
class Batches:
    """The batches that were tried, in order of size. `print` shows them as a table.

    limit: the largest that was to be tried.
    unit: what a batch is counted in: "images", "videos" or "samples".

    >>> import compilekit as ck
    >>> batches = ck.Batches([ck.BatchTrial(1, 1.0), ck.BatchTrial(2, why="too large")], limit=64)
    >>> batches.largest, batches.fastest
    (1, 1)
    """

    trials: Sequence[BatchTrial]
    limit: int
    unit: str = "images"

    @property
    def largest(self) -> int:
        """The largest batch that fits; 0 if none does."""
        return max((trial.batch for trial in self.trials if trial.fits), default=0)

    @property
    def fastest(self) -> int:
        """The batch that gives most each second; 0 if none fits."""
        return max(self.trials, key=lambda trial: trial.rate).batch if self.largest else 0

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        rows = [{**asdict(t), "fits": t.fits, "rate": t.rate or None} for t in self.trials]
        best = {"largest": self.largest, "fastest": self.fastest}
        return {**best, "limit": self.limit, "unit": self.unit, "trials": rows}

    def __repr__(self) -> str:
        return f"<Batches {self._summary()}>"

    def __str__(self) -> str:
        """A table, and a line that says the largest and the fastest."""
        rows = [tuple(column.format(self.unit) for column in COLUMNS), *map(_row, self.trials)]
        return "\n".join([*aligned(rows), self._summary()])

    def _summary(self) -> str:
        if not self.largest:
            return "no batch fits"
        rate = max(trial.rate for trial in self.trials)
        largest = f"{self.largest}" + (" or more" if self.largest == self.limit else "")
        return f"largest batch: {largest}; fastest: {self.fastest}, {rate:.3g} {self.unit}/s"


def _row(trial: BatchTrial) -> tuple[str, ...]:
    seconds = "-" if trial.seconds is None else f"{trial.seconds:.3g}"
    rate = f"{trial.rate:.3g}" if trial.rate else "-"
    peak = "-" if trial.peak is None else size(trial.peak)
    return (str(trial.batch), seconds, rate, peak, f"no: {trial.why}" if trial.why else "yes")
