"""Whether a module is still the one that was captured: a graph holds its tensors and settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from compilekit_plugins.diffusers_internals import HOOK, LORA

if TYPE_CHECKING:
    import torch
    from torch import nn

SETTINGS = ("processor", "training", *LORA, HOOK)
"""Attributes of modules that decide what a forward does, and are no tensors: attention's
processors, and those of LoRA layers."""


class Watch:
    """What a module consists of. In-place edits of weights do not count: replays see them."""

    def __init__(self, owner: nn.Module) -> None:
        self._owner = owner
        self._seen = tuple(_parts(owner))

    def changed(self) -> str:
        """What is another than when it was last looked at; empty if nothing is."""
        now = tuple(_parts(self._owner))
        if now == self._seen:
            return ""
        known = dict(self._seen)
        names = [name for name, part in now if known.get(name) != part]
        self._seen = now
        return names[0] if names else "its parts"


def _parts(owner: nn.Module) -> Iterator[tuple[str, Any]]:
    for path, module in owner.named_modules():
        tensors = (
            *module.named_parameters(recurse=False, remove_duplicate=False),
            *module.named_buffers(recurse=False, remove_duplicate=False),
        )
        for name, tensor in tensors:
            yield f"{path}.{name}", (id(tensor), _place(tensor), tensor.dtype)
        for name in SETTINGS:
            if name in vars(module):
                yield f"{path}.{name}", _setting(vars(module)[name])


def _place(tensor: torch.Tensor) -> int:
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return 0  # a tensor without storage of its own, such as one that lazy mode has not made yet


def _setting(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple(value.items())
    if isinstance(value, list):
        return tuple(value)
    return value if isinstance(value, bool | int | float | str | None) else id(value)
