"""What a trial does to a model: the recipe's steps, then the sample in the batch to try."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from compilekit.batching.arguments import batched, generators, unit_of
from compilekit.batching.limits import hold
from compilekit.engine import Run
from compilekit.errors import ModelError
from compilekit.host import Host, load_host
from compilekit.instruments import KeepState
from compilekit.loading import check_machine, load_subject, ready_model
from compilekit.measure.memory import peak_bytes, reset_peak
from compilekit.model import Model, synchronize
from compilekit.order import gives
from compilekit.plan import Plan, plan
from compilekit.progress import Progress
from compilekit.recording import record
from compilekit.sample import sample_arguments
from compilekit.sizes import resized

if TYPE_CHECKING:
    from compilekit.batching.child import Request


def prepared(request: Request) -> tuple[Plan, Host, Model, dict[str, Any]]:
    """The plan, the model on its device, and the sample."""
    host = load_host(request.plugins)
    checked = plan(request.recipe, host=host)
    host.prepare(checked.steps, "apply")
    check_machine(checked)
    hold(checked.device, request.limit, request.share)
    sample = sample_arguments(checked.recipe)
    make = request.make
    subject = make() if callable(make) else load_subject(checked, make)
    return checked, host, ready_model(checked, subject, request.inputs), sample


class Trial(Run):
    """The steps of a plan, unmeasured, then runs of the sample in one batch.

    Most steps see the sample with a batch of one. What compiles sees the batch to try, so that it
    is compiled for that; by then the other steps have made the model as small as it gets.
    """

    def __init__(
        self, plan: Plan, model: Model, host: Host, sample: Mapping[str, Any], batch: int
    ) -> None:
        super().__init__(plan, model, host, sample, Progress(enabled=False))
        self.unit = unit_of(model)
        self._given, self._inputs = sample, model.inputs
        self._goal, self._batch = batch, 0

    def apply(self, at: Callable[[str], None]) -> None:
        """Run the steps."""
        first, rest = self._in_order()
        for step in first:
            at(step.key)
            self._step(step, [KeepState()])
        self._record_at(1, at)
        for step in rest:
            if "compiled" in gives(step.effects):
                self._record_at(self._goal, at)
            at(step.key)
            self._step(step, [KeepState()])
        self._resize(self._goal)

    def timed(self, seconds: float, most: int) -> tuple[list[float], int]:
        """The times of some runs, after one to warm up, and the most memory in use."""
        reset_peak()
        self.run_sample(self.sample)
        times: list[float] = []
        while not times or (sum(times) < seconds and len(times) < most):
            synchronize()
            start = time.perf_counter()
            output = self.run_sample(self.sample)
            synchronize()
            times.append(time.perf_counter() - start)
        self._check_count(output)
        return times, peak_bytes()

    def run_sample(self, sample: Mapping[str, Any]) -> Any:
        """Run it with a fresh generator for each image."""
        seeds = generators(self.model, self.plan.recipe.seed, self._batch)
        return super().run_sample({**sample, **seeds})

    def _record_at(self, batch: int, at: Callable[[str], None]) -> None:
        if batch == self._batch or not self.plan.steps:
            return
        at(f"recording the sample in a batch of {batch}")
        self._resize(batch)
        self._recording, _ = record(
            self._to_record(), self._run_sample, small_stay=self.model.is_pipeline
        )

    def _resize(self, batch: int) -> None:
        self._batch = batch
        self.sample = batched(self.model, self._given, batch)
        if not self.model.is_pipeline:
            self.model.inputs = resized(self._inputs, batch)

    def _check_count(self, output: Any) -> None:
        images = getattr(output, "images", None)
        if images is not None and len(images) != self._batch:
            raise ModelError(
                f"a {type(self.model.subject).__name__} was asked for {self._batch} images, and "
                f"gave {len(images)}"
            )
