"""Adapter layers: which a component has, and which an adapter's file names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import compilekit as ck
from compilekit_plugins.diffusers_internals import ADAPTERS

if TYPE_CHECKING:
    import torch
    from torch import nn

KIND = re.compile(r"\.(?:lora|lokr)_")
"""What stands between a layer's name and that of an adapter's tensor, as peft names them."""

Tensors = Mapping[str, "torch.Tensor"]

MATRIX = 2
SHOWN = 3


def layers_of(module: nn.Module) -> dict[str, Any]:
    """The adapter layers of a component, by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: part for name, part in module.named_modules() if isinstance(part, BaseTunerLayer)}


def merge(module: nn.Module, where: str) -> None:
    """Add what the adapters say to the weights, and put the plain layers back."""
    layers = layers_of(module)
    try:
        for layer in layers.values():
            layer.merge(safe_merge=True)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise ck.StepError(f"{where} cannot be fused: {error}") from error
    for name, layer in layers.items():
        parent, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(parent), attribute, layer.get_base_layer())
    for note in ADAPTERS:
        vars(module).pop(note, None)


def can_swap(module: nn.Module) -> bool:
    """Whether diffusers can swap its adapters: not those of text encoders."""
    return hasattr(module, "enable_lora_hotswap")


def ranks_in(state: Tensors, component: str, module: nn.Module) -> dict[str, int]:
    """The layers of a component that an adapter's file names, and the rank of each."""
    ranks: dict[str, int] = {}
    for key, tensor in tensors_of(state, component, module).items():
        layer, *rest = KIND.split(key, maxsplit=1)
        if rest:
            is_first = ".lora_A." in key and tensor.dim() >= MATRIX
            ranks[layer] = max(ranks.get(layer, 0), tensor.shape[0] if is_first else 0)
    return ranks


def tensors_of(state: Tensors, component: str, module: nn.Module) -> Tensors:
    """The tensors that an adapter's file has for a component, by the names that peft has for them.

    state: what the pipeline's `lora_state_dict` gave; keys begin with the component's name.
    """
    from diffusers import utils

    start = f"{component}."
    tensors = {key.removeprefix(start): t for key, t in state.items() if key.startswith(start)}
    is_text = not hasattr(module, "load_lora_adapter")
    # Older names, as diffusers changes them while it loads.
    if tensors and not any(".lora_A." in key or ".lokr_" in key for key in tensors):
        if is_text:
            tensors = utils.convert_state_dict_to_diffusers(tensors)
            tensors = utils.convert_state_dict_to_peft(tensors)
        else:
            tensors = utils.convert_unet_state_dict_to_peft(tensors)
    if is_text and not hasattr(module, "text_model"):
        return {key.removeprefix("text_model."): tensor for key, tensor in tensors.items()}
    return tensors


def some(names: Iterable[str]) -> str:
    """A few of many names, and how many more there are."""
    listed = list(names)
    rest = len(listed) - SHOWN
    return ", ".join(listed[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
