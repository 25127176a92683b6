"""The result of `bench`, with its text. Light: no torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compilekit.base.texts import printable
from compilekit.errors import UsageError
from compilekit.studies.bench.data import Figures
from compilekit.studies.bench.text import lines, verdict


class Bench(Figures):
    """What a recipe's result does: a row for each batch. `print` shows a table.

    setup: the seconds that the steps took, their own warm-up and all verification included.
    runs: how many runs each median is of; beside another, how many pairs of turns at least.
    unit: what is counted: "images" or "samples".
    environment: versions and hardware that the numbers are of.
    load: the seconds that loading the model took; 0 if it was loaded already.
    steps: the seconds of the steps without verification.
    compiling: how many of them went into compiling; None if no step tells.
    against: the same of the other, with which it was compared.
    comparisons: how the two compare in each batch.
    notes: why they were not compared, or what limits the comparison.

    >>> import compilekit as ck
    >>> row = ck.BenchRow(1, images=1, first=2.0, seconds=1.5, least=1.4, most=1.6, peak=0)
    >>> ck.Bench("sd", "cpu", [row], setup=9.0, runs=3).latency
    1.5
    """

    @property
    def verdicts(self) -> list[str]:
        """For each batch: which of the two is faster, by how much, in words."""
        return [verdict(self, comparison) for comparison in self.comparisons]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        names = ("recipe", "device", "setup", "runs", "unit", "load", "steps", "compiling")
        return {
            **{name: getattr(self, name) for name in names},
            "rows": [{**asdict(row), "rate": row.rate} for row in self.rows],
            "environment": dict(self.environment),
            "first_image": self.first_image,
            "verdicts": self.verdicts,
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "against": self.against.to_dict() if isinstance(self.against, Bench) else None,
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """The same as JSON text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        try:
            Path(path).write_text(self.to_json(), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{path}: cannot be written: {error.strerror}") from error

    def __repr__(self) -> str:
        return f"<Bench {printable(self.recipe)} on {self.device}: {len(self.rows)} batches>"

    def __str__(self) -> str:
        """The verdict, a table, and lines about how it was measured."""
        return "\n".join(lines(self))
