"""A recipe applied and verified, then timed in one batch after the other."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from compilekit.engine.job import Job
from compilekit.engine.run import Execution
from compilekit.measure.memory import peak_bytes, reset_peak
from compilekit.measure.times import timed
from compilekit.studies.bench.data import Bench, BenchRow
from compilekit.subject.model import cuda_devices
from compilekit.subject.sizes import BATCH, PROMPTS, sized, unit_of


def bench(job: Job, batches: Sequence[int], runs: int) -> Bench:
    """Apply the recipe, then run the sample in each batch."""
    model, plan = job.model, job.plan
    by_prompts = model.is_pipeline and any(job.sample.get(name) for name in PROMPTS)
    if by_prompts or not model.is_pipeline:
        # A step that warms up for the recipe's sizes does so for these too.
        shapes = [*plan.recipe.shapes, *({BATCH: count} for count in batches)]
        recipe = plan.recipe.model_copy(update={"shapes": tuple(shapes)})
        job = replace(job, plan=replace(plan, recipe=recipe))
    execution = Execution(job)
    setup, _ = timed(execution.run, model.wait)
    by = "prompts" if by_prompts else "images"
    rows = []
    for count in batches:
        call = sized(model, job.sample, {BATCH: count}, by=by)
        with job.progress.stage(f"a batch of {count}, {runs} runs"):
            rows.append(_row(execution, call, count, runs))
    return Bench(
        recipe=plan.recipe.name,
        device=plan.device,
        rows=rows,
        setup=setup,
        runs=runs,
        unit=unit_of(model),
        environment=execution.report.environment,
    )


def _row(execution: Execution, call: Mapping[str, Any], count: int, runs: int) -> BenchRow:
    execution.sample = call
    with torch.random.fork_rng(devices=cuda_devices()):
        reset_peak()
        first, output = execution.timed_sample()
        times = [execution.timed_sample()[0] for _ in range(runs)]
    images = getattr(output, "images", None)
    return BenchRow(
        batch=count,
        images=count if images is None else len(images),
        first=first,
        seconds=statistics.median(times),
        least=min(times),
        most=max(times),
        peak=peak_bytes(),
    )
