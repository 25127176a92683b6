"""What is known of a bundle once it is loaded, and of one just built. Light: no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compilekit.base.bytesize import size
from compilekit.bundle.files import WEIGHTS, total
from compilekit.bundle.fingerprint import Difference
from compilekit.bundle.manifest import Manifest
from compilekit.report import Report


@dataclass
class Counts:
    """How many calls an entry point had, and by what they were answered.

    uncovered: the calls that no part was compiled for, by the reason.
    """

    compiled: int = 0
    eager: int = 0
    uncovered: dict[str, int] = field(default_factory=dict)


@dataclass
class Loaded:
    """What a loaded bundle knows of itself; `bundle_of(pipeline)` gives it back.

    differences: what is not here as it was where the bundle was built.
    eager: whether it runs without its compiled code, since that does not fit this machine.
    entries: the counts of each compiled entry point.

    >>> import compilekit as ck
    >>> ck.Loaded.__name__
    'Loaded'
    """

    folder: Path
    manifest: Manifest
    differences: list[Difference]
    eager: bool
    entries: dict[str, Counts] = field(default_factory=dict)

    def counts(self) -> dict[str, Counts]:
        """How many calls each compiled entry point had, and what answered them."""
        return dict(self.entries)


@dataclass(frozen=True)
class Built:
    """What `build` gives back. `print` shows what was built, how large, and how long it took.

    path: where the bundle lies.
    manifest: what it says of itself.
    report: what each step did, cost and gained.
    seconds: how long the whole build took.
    before, after: the output of the sample before the first and after the last step; None
        where the whole bundle was copied from the build cache.
    reused: how many parts come from the build cache.

    >>> import compilekit as ck
    >>> ck.Built.__name__
    'Built'
    """

    path: Path
    manifest: Manifest
    report: Report
    seconds: float
    before: Any
    after: Any
    reused: int = 0

    def __str__(self) -> str:
        files = self.manifest.files
        weights = total(files, lambda file: file.path.endswith(WEIGHTS))
        parts = len(self.manifest.parts) or int(self.manifest.whole is not None)
        cached = f" ({self.reused} from the cache)" if self.reused else ""
        return (
            f"built {self.path}: {parts} part{'s' * (parts != 1)}{cached}, {size(total(files))} "
            f"({size(weights)} of weights), {self.seconds:.0f} s"
        )
