"""`channels_last`: the memory format that fast convolution kernels want.

Only weights of rank 4 are touched, so video models with rank-5 convolutions are safe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import compilekit as ck

if TYPE_CHECKING:
    from compilekit.model import Model

RANK = 4


class ChannelsLast(ck.Options):
    """Has no options: it converts every weight of rank 4."""


@ck.hookimpl
def describe() -> ck.StepDescription:
    """Say what the step is."""
    return ck.StepDescription(
        help="Store convolution weights channels last, as fast convolutions want them.",
        options=ChannelsLast,
        # Weights that wait elsewhere come back in the layout that they had.
        effects=lambda options, device: ck.effects(  # noqa: ARG005
            "layout", gives=["channels_last"], conflicts=["offloaded"]
        ),
        candidates=lambda component, *_: [{}] if component.layers.get("Conv2d") else [],
        budget=1e-4,
    )


@ck.hookimpl
def optimize_model(model: Model, context: ck.StepContext) -> ck.StepResult:
    """Convert every weight of rank 4."""
    import torch

    matched: dict[str, list[str]] = {}
    changed: dict[str, list[str]] = {}
    for component in context.components:
        named = model.module(component).named_parameters()
        weights = [(name, weight) for name, weight in named if weight.dim() == RANK]
        matched[component] = [name for name, _ in weights]
        changed[component] = []
        for name, weight in weights:
            # A 1x1 kernel, or a single channel, is stored alike in both formats.
            before = weight.stride()
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
            if weight.stride() != before:
                changed[component].append(name)
    return ck.StepResult(matched=matched, changed=changed)
