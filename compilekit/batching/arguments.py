"""The sample, for another number of images: one seeded generator for each."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from compilekit.errors import ModelError
from compilekit.model import Model
from compilekit.sizes import BATCH, PROMPTS, sized

COUNTS = {
    "num_images_per_prompt": "images",
    "num_videos_per_prompt": "videos",
    "num_waveforms_per_prompt": "waveforms",
    "batch_size": "images",
}
"""The arguments by which pipelines take a batch, and what it is counted in."""

GENERATOR = "generator"


def unit_of(model: Model) -> str:
    """What a batch of this model is counted in."""
    if not model.is_pipeline:
        return "samples"
    return COUNTS.get(_count(model), "images")


def batched(model: Model, sample: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The sample's arguments for so many images; of a plain module there are none."""
    if not model.is_pipeline:
        return {}
    key = _count(model)
    prompts = {name: sample[name] for name in PROMPTS if sample.get(name)}
    if key:
        one = {name: value[0] for name, value in prompts.items() if isinstance(value, list)}
        return {**sample, **one, key: count}
    if "prompt" not in prompts:
        raise ModelError(
            f"a {type(model.subject).__name__} takes none of {', '.join(COUNTS)}, and the sample "
            "has no prompt: there is no batch to try"
        )
    return sized(sample, {BATCH: count})


def generators(model: Model, seed: int, count: int) -> dict[str, Any]:
    """A fresh generator for each image, where the pipeline takes some."""
    if not model.is_pipeline or GENERATOR not in _accepted(model):
        return {}
    return {GENERATOR: [torch.Generator("cpu").manual_seed(seed + i) for i in range(count)]}


def _count(model: Model) -> str:
    return next((name for name in COUNTS if name in _accepted(model)), "")


def _accepted(model: Model) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(type(model.subject).__call__).parameters
