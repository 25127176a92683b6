"""A recipe applied and verified, and then timed, at one batch after the other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from compilekit.batching.arguments import batched, unit_of
from compilekit.benching.data import Bench, BenchRow
from compilekit.engine import Run
from compilekit.host import Host
from compilekit.measure.memory import peak_bytes, reset_peak
from compilekit.model import Model, cuda_devices, synchronize
from compilekit.plan import Plan
from compilekit.progress import Progress
from compilekit.sizes import BATCH, PROMPTS, resized, sized


def bench(
    plan: Plan,
    model: Model,
    host: Host,
    sample: Mapping[str, Any],
    progress: Progress,
    batches: Sequence[int],
    runs: int,
) -> Bench:
    """Apply the recipe, then run the sample in each batch."""
    by_prompts = model.is_pipeline and any(sample.get(name) for name in PROMPTS)
    if by_prompts or not model.is_pipeline:
        # What warms up for the recipe's sizes does so for these as well.
        shapes = [*plan.recipe.shapes, *({BATCH: count} for count in batches)]
        plan = replace(plan, recipe=plan.recipe.model_copy(update={"shapes": tuple(shapes)}))
    start = time.perf_counter()
    run = Run(plan, model, host, sample, progress)
    run.execute()
    setup = time.perf_counter() - start
    inputs = model.inputs
    rows = []
    for count in batches:
        call = sized(sample, {BATCH: count}) if by_prompts else batched(model, sample, count)
        if not model.is_pipeline:
            model.inputs = resized(inputs, count)
        with progress.stage(f"a batch of {count}, {runs} runs"):
            rows.append(_row(run, call, count, runs))
    model.inputs = inputs
    return Bench(
        recipe=plan.recipe.name,
        device=plan.device,
        rows=rows,
        setup=setup,
        runs=runs,
        unit=unit_of(model),
        environment=run.report.environment,
    )


def _row(run: Run, call: Mapping[str, Any], count: int, runs: int) -> BenchRow:
    with torch.random.fork_rng(devices=cuda_devices()):
        reset_peak()
        first, output = _timed(run, call)
        times = [_timed(run, call)[0] for _ in range(runs)]
    return BenchRow(
        batch=count,
        images=_count(output, count),
        first=first,
        seconds=statistics.median(times),
        least=min(times),
        most=max(times),
        peak=peak_bytes(),
    )


def _timed(run: Run, call: Mapping[str, Any]) -> tuple[float, Any]:
    synchronize()
    start = time.perf_counter()
    output = run.run_sample(call)
    synchronize()
    return time.perf_counter() - start, output


def _count(output: Any, count: int) -> int:
    """How many really came out."""
    images = getattr(output, "images", None)
    return count if images is None else len(images)
