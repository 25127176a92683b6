"""What is to be built, and where; and what an exporter is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from compilekit.bundle.manifest import Manifest
from compilekit.cache.store import Cache
from compilekit.engine.job import Job
from compilekit.engine.run import Execution, Outcome
from compilekit.plugin.steps import PlannedStep


@dataclass(frozen=True)
class BuildJob:
    """A job, the bundle's folder, and the build cache, if it is used.

    force: whether to go on when a step's check of the machine fails.
    """

    job: Job
    target: Path
    cache: Cache | None
    force: bool = False


class Exporter(Protocol):
    """Runs a plan, and writes everything of a bundle but its manifest."""

    execution: Execution

    @property
    def reused(self) -> int:
        """How many parts come from the build cache."""

    def export(self) -> tuple[Outcome, Manifest]:
        """Run the plan, write and check the bundle; returns its manifest."""

    def replay(self, step: PlannedStep | None) -> None:
        """Run one step again, or the whole plan, and keep nothing."""
