"""A variant: a model with a recipe applied, which runs its sample whenever its turn comes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from compilekit.base.progress import Told
from compilekit.engine.job import Job
from compilekit.engine.run import Execution
from compilekit.measure.memory import peak_bytes, reset_peak
from compilekit.measure.times import several, timed
from compilekit.plan.order import gives
from compilekit.studies.bench.order import Order
from compilekit.subject.sizes import BATCH, PROMPTS, sized, unit_of

TURN, MOST = 0.1, 1000
"""For how many seconds a turn runs the sample, at least once; and how often at most."""

NAP, AWAKE, NAPS = 0.01, 0.2, 50
"""How long each look at an idle process lasts, which share of it counts as busy, and how many."""


class Variant:
    """A job whose steps are applied, and then its sample in one batch after the other."""

    def __init__(self, job: Job, batches: Sequence[int]) -> None:
        self.by_prompts = job.model.is_pipeline and any(job.sample.get(name) for name in PROMPTS)
        if self.by_prompts or not job.model.is_pipeline:
            # A step that warms up for the recipe's sizes does so for these too.
            shapes = [*job.plan.recipe.shapes, *({BATCH: count} for count in batches)]
            recipe = job.plan.recipe.model_copy(update={"shapes": tuple(shapes)})
            job = replace(job, plan=replace(job.plan, recipe=recipe))
        self.execution = Execution(job)
        self.model, self.sample = job.model, job.sample
        self.load = 0.0
        self.setup, _ = timed(self.execution.run, self.model.wait)

    def about(self) -> dict[str, Any]:
        """What is known before anything is timed."""
        rows = self.execution.report.steps
        told = [row.details["compile_seconds"] for row in rows if "compile_seconds" in row.details]
        seconds = [float(each) for each in told if isinstance(each, int | float)]
        return {
            "device": self.execution.plan.device,
            "load": self.load,
            "steps": sum(row.seconds for row in rows),
            "setup": self.setup,
            "compiling": sum(seconds) if seconds else None,
            "compiles": any("compiled" in gives(s.effects) for s in self.execution.plan.steps),
            "unit": unit_of(self.model),
            "environment": dict(self.execution.report.environment),
        }

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a request says: run a batch for the first time, or take a turn."""
        return self.first(request["batch"]) if "batch" in request else self.turn()

    def first(self, batch: int) -> dict[str, Any]:
        """Run the sample in another batch: its first run, and how many images come out."""
        by = "prompts" if self.by_prompts else "images"
        self.execution.sample = sized(self.model, self.sample, {BATCH: batch}, by=by)
        reset_peak()
        seconds, output = self.execution.timed_sample()
        images = getattr(output, "images", None)
        return {"seconds": seconds, "images": batch if images is None else len(images)}

    def turn(self) -> dict[str, Any]:
        """Run the sample, several times if it is quick: the median, and the extremes."""
        times = several(self.once, least=1, most=MOST, seconds=TURN)
        return {
            "seconds": statistics.median(times),
            "least": min(times),
            "most": max(times),
            "peak": peak_bytes(),
        }

    def once(self) -> float:
        """The seconds of a run."""
        return self.execution.timed_sample()[0]


def make(order: Order, say: Callable[[str], None]) -> Variant:
    """The variant of an order, in this process."""
    start: list[float] = []
    say("loading the model")
    job = order.order.job(lambda _: start.append(time.perf_counter()))
    load = time.perf_counter() - start[0]
    variant = Variant(replace(job, progress=Told(say)), order.batches)
    variant.load = load
    return variant


def settle() -> None:
    """Wait until the threads of this process sleep: some spin for a while after their work.

    They would slow whoever has the next turn.
    """
    for _ in range(NAPS):
        before = time.process_time()
        time.sleep(NAP)
        if time.process_time() - before < AWAKE * NAP:
            return
