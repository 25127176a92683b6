"""The search: twice as many as long as they fit, then halves."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from compilekit.base.bytesize import size
from compilekit.base.progress import Progress
from compilekit.errors import MachineError, UsageError
from compilekit.measure.machine import free_bytes
from compilekit.plan.plan import Plan
from compilekit.studies.batch.data import Batches, BatchTrial
from compilekit.studies.batch.limits import share_or_bytes
from compilekit.studies.batch.process import ask
from compilekit.studies.batch.request import Order, Request
from compilekit.subject.load import is_function


def search(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number up to a limit that fits, if all that are smaller do too; 0 if none."""
    good, next_ = 0, 1
    while fits(next_):
        good = next_
        if good == limit:
            return good
        next_ = min(2 * good, limit)
    bad = next_
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


class Largest:
    """One search."""

    def __init__(
        self,
        plan: Plan,
        order: Order,
        *,
        limit: int,
        timeout: float | None,
        on_trial: Callable[[BatchTrial], None] | None,
        progress: Progress,
    ) -> None:
        if limit < 1:
            raise UsageError(f"the largest batch to try is {limit}, and must be at least 1")
        if timeout is not None and not timeout > 0:
            raise UsageError(f"the time limit of a trial is {timeout:g} s, and must be above 0")
        self._plan = plan
        self._order = order
        self._limit = limit
        self._timeout = timeout
        self._on_trial = on_trial
        self._progress = progress
        self._trials: list[BatchTrial] = []
        self._unit = "images"

    def run(self, memory: str | None) -> Batches:
        """Search, each trial held to so much memory: "8 GB", "90%", or what is free."""
        share, size_ = self._allowed(memory)

        def fits(batch: int) -> bool:
            return self._try(batch, size_, share).fits

        if not search(fits, self._limit):
            raise MachineError(f"not even a batch of 1 fits: {self._trials[0].why}")
        trials = sorted(self._trials, key=lambda trial: trial.batch)
        return Batches(tuple(trials), self._limit, self._unit)

    def _try(self, batch: int, limit: int | None, share: float | None) -> BatchTrial:
        request = Request(self._order, batch, limit, share)
        title = f"batch {batch}"
        with self._progress.stage(title):
            trial, unit = ask(
                request, self._timeout, lambda stage: self._progress.say(title, stage)
            )
        self._unit = unit or self._unit
        self._trials.append(trial)
        self._progress.note(f"  {self._said(trial)}")
        if self._on_trial is not None:
            self._on_trial(trial)
        return trial

    def _said(self, trial: BatchTrial) -> str:
        if trial.seconds is None or trial.peak is None:
            return f"does not fit: {trial.why}"
        rate = f"{trial.rate:.3g} {self._unit}/s"
        return f"fits: {trial.seconds:.3g} s a run, {rate}, {size(trial.peak)}"

    def _allowed(self, memory: str | None) -> tuple[float | None, int | None]:
        """The share or the bytes that a trial may take; says it where that is more than is free."""
        share, limit = (None, None) if memory is None else share_or_bytes(memory)
        device = self._plan.device
        if device != "cpu":
            if memory is not None and device != "cuda":
                raise UsageError(f'memory: a trial on "{device}" can be held to no limit')
            return share, limit
        free = free_bytes()
        if limit is None:
            limit = int(free * (share or 1.0))
        if limit > free:
            self._progress.note(
                f"warning: {size(limit)} is more than the {size(free)} that are free here: "
                "a trial may make the machine swap, or be killed"
            )
        return None, limit


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
