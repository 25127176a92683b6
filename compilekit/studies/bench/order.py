"""A variant as it is asked for: pickled here, unpickled by its worker. Light: no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from compilekit.plan.plan import Plan

if TYPE_CHECKING:
    from compilekit.engine.job import Job


class JobOrder(Protocol):
    """Makes the job in the process that unpickles it."""

    def job(self, before_loading: Callable[[Plan], None]) -> Job:
        """Plan, prepare, and load the model."""


@dataclass(frozen=True)
class Order:
    """A recipe on a model, to be timed in these batches.

    name: how messages name it.
    """

    name: str
    order: JobOrder
    batches: Sequence[int]
