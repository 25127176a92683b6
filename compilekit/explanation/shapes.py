"""The sample in the other sizes of a recipe, and what was compiled again for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from compilekit.building.capture import BATCH, resized, settings, unknown_shapes
from compilekit.engine import Run
from compilekit.errors import Problem, RecipeError
from compilekit.model import Model
from compilekit.plan import Plan

RECOMPILES = "recompiles"
"""The key of a step's details that lists what was compiled again since the step ran."""

STEPS = "num_inference_steps"


def check_shapes(plan: Plan, model: Model) -> None:
    """Look whether the recipe's `shapes:` mean something for this model."""
    problems = [
        Problem(plan.recipe.location("shapes", index, key), f"shapes[{index}].{key}", why)
        for index, key, why in unknown_shapes(model, plan.recipe.shapes)
    ]
    if problems:
        raise RecipeError(problems)


def run_shape(run: Run, changes: Mapping[str, int]) -> None:
    """Run the sample, or a plain module, in another size."""
    model = run.model
    if model.is_pipeline:
        run.run_sample(sized(model, run.sample, changes))
        return
    own = model.inputs
    model.inputs = resized(own, changes[BATCH])
    try:
        run.run_sample({})
    finally:
        model.inputs = own


def sized(model: Model, sample: Mapping[str, Any], changes: Mapping[str, int]) -> dict[str, Any]:
    """The sample's arguments in another size, with all its steps."""
    known = settings(model, sample, [])
    new = [each for each in settings(model, sample, [changes]) if each not in known]
    other = {k: v for k, v in (new[0] if new else sample).items() if k != STEPS}
    own = {k: v for k, v in {**sample, **changes}.items() if k == STEPS}
    return {**other, **own}


def listed(details: Mapping[str, Any], key: str) -> list[str]:
    """The texts under a key of a step's details; nothing where it is used for something else."""
    found = details.get(key)
    return [str(each) for each in found] if isinstance(found, list | tuple) else []


def added(now: Sequence[str], before: Sequence[str]) -> list[str]:
    """What the first list has more of than the second."""
    return list((Counter(now) - Counter(before)).elements())
