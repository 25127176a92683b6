"""A trial as it is asked for: pickled by the search, unpickled by the worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from compilekit.plan.plan import Plan

if TYPE_CHECKING:
    from compilekit.engine.job import Job


class Order(Protocol):
    """Makes the job in the process that unpickles it."""

    def job(self, before_loading: Callable[[Plan], None]) -> Job:
        """Plan, prepare, and load the model."""


@dataclass(frozen=True)
class Request:
    """One batch to try, held to so many bytes, or to a share of the GPU's memory."""

    order: Order
    batch: int
    limit: int | None
    share: float | None
