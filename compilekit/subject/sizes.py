"""The sample in other sizes: the recipe's `shapes:`, and batches."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from compilekit.base.texts import did_you_mean
from compilekit.errors import ModelError, Problem, RecipeError
from compilekit.plan.plan import Plan
from compilekit.subject.model import Model

BATCH = "batch"
"""The key of `shapes` for the number of prompts; of a plain module, for the rows of its inputs."""

PROMPTS = ("prompt", "negative_prompt", "prompt_2", "prompt_3", "negative_prompt_2")

TWO_STEPS = {"UnCLIPScheduler", "KarrasVeScheduler", "MochiPipeline", "SanaSprintPipeline"}
"""Schedulers and pipelines that spread their steps from the first to the last, and need both."""

COUNTS = {
    "num_images_per_prompt": "images",
    "num_videos_per_prompt": "videos",
    "num_waveforms_per_prompt": "waveforms",
    "batch_size": "images",
}
"""The arguments by which pipelines take a batch, and what they count."""


def check_shapes(plan: Plan, model: Model) -> None:
    """Raise if an entry of the recipe's `shapes:` has no meaning for this model."""
    problems = [
        Problem(plan.recipe.location("shapes", index, key), f"shapes[{index}].{key}", why)
        for index, changes in enumerate(plan.recipe.shapes)
        for key in changes
        if (why := _unknown(model, key))
    ]
    if problems:
        raise RecipeError(problems)


def _unknown(model: Model, key: str) -> str:
    """Why a key of `shapes` has no meaning; empty if it has one."""
    known = {BATCH, *model.parameters} if model.is_pipeline else {BATCH}
    if key in known:
        return ""
    if model.is_pipeline:
        hint = did_you_mean(key, known)
        return f"{type(model.subject).__name__} takes no such argument.{hint}"
    return f'of a plain module only "{BATCH}" can change'


def unit_of(model: Model) -> str:
    """What a batch of this model counts: images, videos, waveforms or samples."""
    return COUNTS.get(_count(model), "images") if model.is_pipeline else "samples"


def _count(model: Model) -> str:
    return next((name for name in COUNTS if name in model.parameters), "")


def sized(
    model: Model, sample: Mapping[str, Any], changes: Mapping[str, Any], *, by: str = "prompts"
) -> dict[str, Any]:
    """The sample's arguments in another size; run them with `in_size`.

    by: how a pipeline gets a batch: by so many "prompts", or by one prompt and so many "images".
    """
    if not model.is_pipeline:
        return {BATCH: changes[BATCH]} if BATCH in changes else {}
    result = {key: value for key, value in {**sample, **changes}.items() if key != BATCH}
    if BATCH not in changes:
        return result
    count, key = int(changes[BATCH]), _count(model)
    if by == "images" and key:
        firsts = {n: v[0] for n in PROMPTS if isinstance(v := result.get(n), list) and v}
        return {**result, **firsts, key: count}
    if by == "images" and not result.get("prompt"):
        raise ModelError(
            f"a {type(model.subject).__name__} takes none of {', '.join(COUNTS)}, and the sample "
            "has no prompt: there is no batch to try"
        )
    for name in PROMPTS:
        value = result.get(name)
        if isinstance(value, str):
            result[name] = [value] * count
        elif isinstance(value, list) and value:
            result[name] = [value[i % len(value)] for i in range(count)]
    return result


def one_step(model: Model, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The same call with as few denoising steps as possible."""
    result = dict(arguments)
    if "num_inference_steps" not in model.parameters:
        return result
    # With a strength of 0.5, one step of two is taken.
    usual = model.parameters.get("strength")
    strength = result.get("strength", 1 if usual is None else usual.default)
    fits = isinstance(strength, int | float) and 0 < strength <= 1
    names = {
        type(part).__name__ for part in (model.subject, getattr(model.subject, "scheduler", None))
    }
    least = 2 if names & TWO_STEPS else 1
    result["num_inference_steps"] = max(least, math.ceil(1 / strength) if fits else 1)
    return result


@contextlib.contextmanager
def in_size(model: Model, call: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The arguments to call the model with. A plain module's inputs are resized meanwhile."""
    if model.is_pipeline or BATCH not in call:
        yield call if model.is_pipeline else {}
        return
    inputs = model.inputs
    model.inputs = _resized(inputs, int(call[BATCH]))
    try:
        yield {}
    finally:
        model.inputs = inputs


def _resized(inputs: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """The inputs of a plain module with another number of rows: repeated, or fewer.

    The first input has one row for each entry of the batch; so have inputs of the same length.
    """
    rows = next((v.shape[0] for v in inputs.values() if getattr(v, "ndim", 0)), 0)

    def resized(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.dim() or value.shape[0] != rows:
            return value
        indices = torch.arange(batch, device=value.device) % value.shape[0]
        return value.index_select(0, indices)

    return {name: resized(value) for name, value in inputs.items()}
