"""The sample in other sizes: what an entry of a recipe's `shapes:` means for a model."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from compilekit.errors import Problem, RecipeError

if TYPE_CHECKING:
    from compilekit.model import Model
    from compilekit.plan import Plan

BATCH = "batch"
"""The key of `shapes` that stands for the number of prompts."""

PROMPTS = ("prompt", "negative_prompt", "prompt_2", "prompt_3", "negative_prompt_2")


def check_shapes(plan: Plan, model: Model) -> None:
    """Raise where an entry of the recipe's `shapes:` means nothing for this model."""
    problems = [
        Problem(plan.recipe.location("shapes", index, key), f"shapes[{index}].{key}", why)
        for index, changes in enumerate(plan.recipe.shapes)
        for key in changes
        if (why := _unknown(model, key))
    ]
    if problems:
        raise RecipeError(problems)


def _unknown(model: Model, key: str) -> str:
    """Why a key of `shapes` means nothing; empty if it does."""
    known = {BATCH}
    if model.is_pipeline:
        known |= set(inspect.signature(type(model.subject).__call__).parameters) - {"self"}
    if key in known:
        return ""
    near = difflib.get_close_matches(key, known, n=1)
    hint = f' Did you mean "{near[0]}"?' if near else ""
    owner = type(model.subject).__name__
    if model.is_pipeline:
        return f"{owner} takes no such argument.{hint}"
    return f'a module has only "{BATCH}" here'


def sized(sample: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The sample's arguments in another size; a batch is so many prompts."""
    result = {key: value for key, value in {**sample, **changes}.items() if key != BATCH}
    batch = changes.get(BATCH)
    if batch is None:
        return result
    for name in PROMPTS:
        value = result.get(name)
        if isinstance(value, str):
            result[name] = [value] * int(batch)
        elif isinstance(value, list) and value:
            result[name] = [value[i % len(value)] for i in range(int(batch))]
    return result


def one_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The same call in as few steps as can be."""
    result = dict(arguments)
    # With a strength of a half, one step of two is taken.
    strength = result.get("strength", 1)
    fits = isinstance(strength, int | float) and 0 < strength <= 1
    result["num_inference_steps"] = math.ceil(1 / strength) if fits else 1
    return result


@contextlib.contextmanager
def resized_inputs(model: Model, batch: int) -> Iterator[None]:
    """Let a plain module have its inputs in another number for a while."""
    own = model.inputs
    model.inputs = resized(own, batch)
    try:
        yield
    finally:
        model.inputs = own


def resized(inputs: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """The inputs of a plain module for another number of entries: repeated, or fewer.

    The first input has one row for each entry; so have those of the same length.
    """
    rows = next((v.shape[0] for v in inputs.values() if getattr(v, "ndim", 0)), 0)

    def one(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.dim() or value.shape[0] != rows:
            return value
        indices = torch.arange(batch, device=value.device) % value.shape[0]
        return value.index_select(0, indices)

    return {name: one(value) for name, value in inputs.items()}
