"""The search: twice as many as long as they fit, then halves."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from compilekit.base.bytesize import size
from compilekit.base.progress import Progress
from compilekit.errors import MachineError, UsageError
from compilekit.plan.plan import Plan
from compilekit.studies.batch.data import Batches, BatchTrial
from compilekit.studies.batch.limits import allowed
from compilekit.studies.batch.process import ask
from compilekit.studies.batch.request import Order, Request
from compilekit.subject.load import is_function


def search(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number up to a limit that fits, if all that are smaller do too; 0 if none."""
    good, bad = 0, 1
    while fits(bad):
        good = bad
        if good == limit:
            return good
        bad = min(2 * good, limit)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


@dataclass
class Largest:
    """One search."""

    plan: Plan
    order: Order
    limit: int
    timeout: float | None
    on_trial: Callable[[BatchTrial], None] | None
    progress: Progress
    trials: list[BatchTrial] = field(default_factory=list)
    unit: str = "images"

    def __post_init__(self) -> None:
        """Refuse a limit that makes no sense."""
        if self.limit < 1:
            raise UsageError(f"the largest batch to try is {self.limit}, and must be at least 1")
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise UsageError(
                f"the time limit of a trial is {self.timeout:g} s, and must be above 0"
            )

    def run(self, memory: str | None) -> Batches:
        """Search, each trial held to so much memory: "8 GB", "90%", or what is free."""
        bytes_, share = allowed(self.plan.device, memory, self.progress.note)
        if not search(
            lambda batch: self._fits(Request(self.order, batch, bytes_, share)), self.limit
        ):
            raise MachineError(f"not even a batch of 1 fits: {self.trials[0].why}")
        trials = sorted(self.trials, key=lambda trial: trial.batch)
        return Batches(tuple(trials), self.limit, self.unit)

    def _fits(self, request: Request) -> bool:
        title = f"batch {request.batch}"
        with self.progress.stage(title):
            trial, unit = ask(request, self.timeout, lambda stage: self.progress.say(title, stage))
        self.unit = unit or self.unit
        self.trials.append(trial)
        self.progress.note(f"  {self._outcome(trial)}")
        if self.on_trial is not None:
            self.on_trial(trial)
        return trial.fits

    def _outcome(self, trial: BatchTrial) -> str:
        if trial.seconds is None or trial.peak is None:
            return f"does not fit: {trial.why}"
        rate = f"{trial.rate:.3g} {self.unit}/s"
        return f"fits: {trial.seconds:.3g} s a run, {rate}, {size(trial.peak)}"


def check_source(source: Any) -> None:
    """Raise if a model's source cannot be sent to another process."""
    if source is None or isinstance(source, str):
        return
    if not is_function(source):
        raise UsageError(
            "each trial runs in its own process: pass a folder, a hub id, or a function that "
            f"makes the model, not a {type(source).__name__}"
        )
    try:
        pickle.dumps(source)
    except Exception as error:
        raise UsageError(f"{source!r} cannot be sent to another process: {error}") from error
    if getattr(source, "__module__", "") == "__main__":
        raise UsageError(
            f"{source!r} is defined in the script itself, where another process does not find it: "
            "move it into a module"
        )
