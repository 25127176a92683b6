"""Whether an adapter can be swapped in for the one that is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from compilekit_plugins.lora.layers import KIND, MATRIX, Tensors, some, tensors_of

if TYPE_CHECKING:
    import torch
    from torch import nn


def misfit(state: Tensors, modules: Mapping[str, nn.Module], name: str, rank: int) -> str:
    """Why an adapter does not fit; empty if it does.

    state: what the pipeline read of its file, for all components.
    modules: the components where one is ready to be swapped.
    name, rank: the name of that one, and the largest rank that it is ready for.
    """
    pairs = list(_pairs(state, modules, name))
    strange = [KIND.split(key)[0] for key, _, present in pairs if present is None]
    strange += [key for key in state if key.split(".")[0] not in modules]
    if strange:
        few = some(dict.fromkeys(strange))
        return f"the first one has no layer {few}; begin with one that has them all"
    other = [
        key
        for key, tensor, present in pairs
        if present is not None and _width(key, tensor) != _width(key, present)
    ]
    if other:
        return f"it is for another model, by the shape of {some(other)}"
    ranks = [tensor.shape[_rank_at(key)] for key, tensor, _ in pairs if tensor.dim() >= MATRIX]
    largest = max(ranks, default=0)
    if largest > rank:
        return f"its rank is {largest}, and `hotswap` of the recipe {rank}"
    return "" if pairs else f"it has nothing for {', '.join(modules)}"


def _pairs(
    state: Tensors, modules: Mapping[str, nn.Module], name: str
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor | None]]:
    """Each tensor of an adapter, and its like in the one that is there."""
    for component, module in modules.items():
        present = dict(module.named_parameters())
        for key, tensor in tensors_of(state, component, module).items():
            half, _, kind = key.rpartition(".")
            yield f"{component}.{key}", tensor, present.get(f"{half}.{name}.{kind}")


def _rank_at(key: str) -> int:
    """The dimension of a tensor that is the rank."""
    return 0 if ".lora_A." in key else 1


def _width(key: str, tensor: torch.Tensor) -> list[int]:
    """The sizes of a tensor but for the rank."""
    return [size for at, size in enumerate(tensor.shape) if at != _rank_at(key)]
