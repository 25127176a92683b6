"""What a benchmark measures. Light: no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from compilekit.base.bytesize import size
from compilekit.base.columns import aligned
from compilekit.base.texts import printable

COLUMNS = ("batch", "{}", "first run", "seconds a run", "from", "to", "{}/s", "peak memory")


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


@dataclass(frozen=True, repr=False)
class Bench:
    """What a recipe's result does: a row for each batch. `print` shows a table.

    setup: the seconds that the steps took, their own warm-up and all verification included.
    runs: how many runs each median is of.
    unit: what is counted: "images" or "samples".
    environment: versions and hardware that the numbers are of.

    >>> import compilekit as ck
    >>> row = ck.BenchRow(1, images=1, first=2.0, seconds=1.5, least=1.4, most=1.6, peak=0)
    >>> ck.Bench("sd", "cpu", [row], setup=9.0, runs=3).latency
    1.5
    """

    recipe: str
    device: str
    rows: Sequence[BenchRow]
    setup: float
    runs: int
    unit: str = "images"
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def latency(self) -> float | None:
        """The seconds of one run of a batch of 1, if that was measured."""
        return next((row.seconds for row in self.rows if row.batch == 1), None)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        rows = [{**asdict(row), "rate": row.rate} for row in self.rows]
        return {**asdict(self), "environment": dict(self.environment), "rows": rows}

    def __repr__(self) -> str:
        return f"<Bench {printable(self.recipe)} on {self.device}: {len(self.rows)} batches>"

    def __str__(self) -> str:
        """A table, and a line about how it was measured."""
        cells = [tuple(column.format(self.unit) for column in COLUMNS), *map(_cells, self.rows)]
        summary = (
            f"{self.recipe} on {self.device}: medians of {self.runs} runs; steps and their "
            f"verification took {self.setup:.3g} s"
        )
        return "\n".join([*aligned(cells), summary])


def _cells(row: BenchRow) -> tuple[str, ...]:
    times = (row.first, row.seconds, row.least, row.most, row.rate)
    return (
        str(row.batch),
        str(row.images),
        *(f"{value:.3g}" for value in times),
        size(row.peak),
    )
