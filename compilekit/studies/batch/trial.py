"""One trial: the recipe's steps, then the sample in the batch to try. Runs in the worker."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch

from compilekit.engine.instruments import KeepState
from compilekit.engine.job import Job
from compilekit.engine.run import Execution
from compilekit.errors import ModelError
from compilekit.measure.memory import peak_bytes, reset_peak
from compilekit.measure.times import several
from compilekit.plan.order import gives
from compilekit.studies.batch.limits import hold, is_memory
from compilekit.studies.batch.request import Request
from compilekit.subject.model import Model
from compilekit.subject.sizes import BATCH, sized, unit_of

SECONDS, MOST = 2.0, 3
"""For how long, and how often, a run is timed at most; at least once."""


def run_trial(request: Request, say: Callable[[str], None]) -> dict[str, Any]:
    """The time and the memory of one batch; or why it does not fit."""
    try:
        say("loading the model")
        job = request.order.job(lambda plan: hold(plan.device, request.limit, request.share))
        return Trial(job, request.batch, say).run()
    except BaseException as error:
        if why := is_memory(error):
            return {"why": why}
        raise


class Trial:
    """The steps of a plan, unmeasured, then runs of the sample in one batch.

    Most steps see the sample with a batch of one. A step that compiles sees the batch to try, so
    that it compiles for that; by then the other steps have made the model as small as it gets.
    """

    def __init__(self, job: Job, batch: int, say: Callable[[str], None]) -> None:
        self._execution = Execution(job, arguments=self._with_generators)
        self._model, self._sample = job.model, job.sample
        self._goal, self._batch = batch, 0
        self._say = say

    def run(self) -> dict[str, Any]:
        """Apply the steps, and measure."""
        first, rest = self._execution.in_order()
        for step in first:
            self._say(step.key)
            self._execution.perform(step, [KeepState()])
        self._record_at(1)
        for step in rest:
            if "compiled" in gives(step.effects):
                self._record_at(self._goal)
            self._say(step.key)
            self._execution.perform(step, [KeepState()])
        self._resize(self._goal)
        self._say("running the sample")
        reset_peak()
        self._check_count(self._execution.timed_sample()[1])
        times = several(
            lambda: self._execution.timed_sample()[0], least=1, most=MOST, seconds=SECONDS
        )
        return {
            "seconds": statistics.median(times),
            "peak": peak_bytes(),
            "unit": unit_of(self._model),
        }

    def _with_generators(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        seed = self._execution.plan.recipe.seed
        return {**sample, **generators(self._model, seed, self._batch)}

    def _record_at(self, batch: int) -> None:
        if batch == self._batch or not self._execution.plan.steps:
            return
        self._say(f"recording the sample in a batch of {batch}")
        self._resize(batch)
        self._execution.record()

    def _resize(self, batch: int) -> None:
        self._batch = batch
        self._execution.sample = sized(self._model, self._sample, {BATCH: batch}, by="images")

    def _check_count(self, output: Any) -> None:
        images = getattr(output, "images", None)
        if images is not None and len(images) != self._batch:
            raise ModelError(
                f"a {type(self._model.subject).__name__} was asked for {self._batch} images, and "
                f"gave {len(images)}"
            )


def generators(model: Model, seed: int, count: int) -> dict[str, Any]:
    """A fresh generator for each image, if the pipeline takes generators."""
    if not model.is_pipeline or "generator" not in model.parameters:
        return {}
    return {"generator": [torch.Generator("cpu").manual_seed(seed + i) for i in range(count)]}
