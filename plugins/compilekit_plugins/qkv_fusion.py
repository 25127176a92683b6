"""`qkv_fusion`: one projection for queries, keys and values, in place of three.

diffusers keeps the three layers in memory beside the fused one; here they are freed. So it
cannot be undone in place, and a folder cannot hold the fused model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import compilekit as ck

if TYPE_CHECKING:
    from torch import nn

    from compilekit.model import Model

FUSED_FROM = {
    "to_qkv": ("to_q", "to_k", "to_v"),
    "to_kv": ("to_k", "to_v"),
    "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
}
"""The fused layers of diffusers' attention, and the layers that each stands in for."""


class QkvFusion(ck.Options):
    """Has no options: it fuses every attention that the component can fuse."""


@ck.hookimpl
def describe() -> ck.StepDescription:
    """Say what the step is."""
    return ck.StepDescription(
        help="Fuse the query, key and value projections of attention into one.",
        options=QkvFusion,
        effects=lambda options, device: ck.effects(  # noqa: ARG005
            "structure",
            needs=["plain_linear_weights"],
            gives=["fused_qkv"],
            removes=["stock_state_dict"],
            # Fusing puts processors of its own in the place of those that slice.
            conflicts=["fused_qkv", "lora_layers", "quantised_weights", "sliced_attention"],
        ),
        budget=1e-4,
    )


@ck.hookimpl
def optimize_model(model: Model, context: ck.StepContext) -> ck.StepResult:
    """Fuse, and free the layers that were fused."""
    matched, skipped = {}, {}
    for component in context.components:
        module: Any = model.module(component)
        if not hasattr(module, "fuse_qkv_projections"):
            skipped[component] = f"a {type(module).__name__} cannot fuse its projections"
            continue
        if any(
            hasattr(layer, "to_qkv") and not hasattr(layer, "to_q") for _, layer in _fused(module)
        ):
            skipped[component] = "its projections are fused already"
            continue
        try:
            module.fuse_qkv_projections()
        except ValueError as error:
            raise ck.StepError(f"{context.step.key}: {component}: {error}") from error
        matched[component] = [name for name, layer in _fused(module) if _free(layer)]
        module.unfuse_qkv_projections = _cannot_undo
    return ck.StepResult(matched=matched, changed=matched, skipped=skipped)


def _fused(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, layer in module.named_modules():
        if any(hasattr(layer, fused) for fused in FUSED_FROM):
            yield name, layer


def _free(attention: nn.Module) -> bool:
    """Drop the layers that a fused one stands in for; whether there were any."""
    fused = [parts for name, parts in FUSED_FROM.items() if getattr(attention, name, None)]
    freed = {part for parts in fused for part in parts if getattr(attention, part, None)}
    for part in freed:
        delattr(attention, part)
    return bool(freed)


def _cannot_undo() -> NoReturn:
    raise ck.StepError(
        "qkv_fusion freed the separate projections, so this model cannot be unfused: load it again"
    )
