"""What a recipe is compared with; and a recipe on a model of this process, timed alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from compilekit.engine.job import Job
from compilekit.plan.plan import Plan
from compilekit.recipe import Recipe
from compilekit.studies.bench.beside import Effort, Runner, measured
from compilekit.studies.bench.result import Bench
from compilekit.studies.bench.variant import Variant
from compilekit.subject.model import cuda_devices
from compilekit.subject.sample import picture_names


def alone(job: Job, batches: Sequence[int], effort: Effort, note: str) -> Bench:
    """Apply the recipe in this process, and time the sample in each batch.

    note: why it is not compared with anything.
    """
    variant = Variant(job, batches)
    runner = Runner(job.plan.recipe.name, variant.answer, variant.about())
    with torch.random.fork_rng(devices=cuda_devices()):
        return measured(runner, None, batches, effort, job.progress, [note])


def as_loaded(plan: Plan) -> Recipe:
    """The recipe with nothing but the steps that mean to change results: it draws the same."""
    kept = {step.index for step in plan.steps if "results" in step.effects.changes}
    steps = tuple(step for step in plan.recipe.steps if step.index in kept)
    return plan.recipe.model_copy(update={"steps": steps})


def adopted(other: Recipe, recipe: Recipe) -> Recipe:
    """The other recipe with the model and the sample of the first, where it has none."""
    update: dict[str, Any] = {}
    if other.model is None:
        update["model"] = recipe.model
    if not other.sample_arguments:
        # Pictures are looked for beside the recipe that names them.
        pictures = {n: str(path.absolute()) for n, path in picture_names(recipe).items()}
        update["sample"] = {**recipe.sample, **other.sample, **pictures}
    return other.model_copy(update=update)


def different_samples(one: Recipe, other: Recipe) -> list[str]:
    """In which arguments two recipes run different samples, as a note."""
    names = sorted({*one.sample_arguments, *other.sample_arguments})
    found = [
        f"{name} is {one.sample.get(name)!r} and {other.sample.get(name)!r}"
        for name in names
        if one.sample.get(name) != other.sample.get(name)
    ]
    return [f"their samples differ: {', '.join(found)}"] if found else []
