"""What a trial's process is asked for: pickled here, unpickled there. Light: no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from compilekit.plan.plan import Plan
from compilekit.recipe import Recipe
from compilekit.report import Report

if TYPE_CHECKING:
    from compilekit.engine.job import Job

Before = Callable[[Plan], None]


class Elsewhere(Protocol):
    """Applies or builds recipes in the process that unpickles it."""

    def job(self, recipe: Recipe, before_loading: Before) -> Job:
        """Plan, prepare, and load the model."""

    def report(
        self, recipe: Recipe, thorough: int, before_loading: Before, say: Callable[[str], None]
    ) -> Report:
        """Apply or build the recipe; the report of it."""


@dataclass(frozen=True)
class Order:
    """A recipe to try.

    limits: the bytes, or the share of the GPU's memory, that it may take.
    thorough: how many times more pairs of calls to time than usual; 0 for the model's facts alone.
    """

    elsewhere: Elsewhere
    recipe: Recipe
    limits: tuple[int | None, float | None]
    thorough: int = 1

    @property
    def wants_facts(self) -> bool:
        """Whether the model's facts are asked for, and no trial."""
        return not self.thorough

    def job(self, before_loading: Before) -> Job:
        """The job of the recipe."""
        return self.elsewhere.job(self.recipe, before_loading)

    def report(self, before_loading: Before, say: Callable[[str], None]) -> Report:
        """The report of the trial."""
        return self.elsewhere.report(self.recipe, self.thorough, before_loading, say)
