"""A look at what an entry point does, before a capture: an error inside of one is not undone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from compilekit_plugins import torch_internals

REFUSED = (
    (torch.Tag.data_dependent_output, "reads a value while it runs"),
    (torch.Tag.dynamic_output_shape, "makes tensors whose sizes depend on data"),
    (torch.Tag.nondeterministic_seeded, "draws random numbers"),
)

_Mode: Any = torch_internals.dispatch_mode()


class Probe(_Mode):  # type: ignore[misc]
    """Runs operations as they are, and notes the first that cannot be captured.

    place: the kind of device that is captured; empty if it is not known.
    """

    def __init__(self, place: str = "") -> None:
        super().__init__()
        self.why = ""
        self._place = place

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """One operation."""
        del types
        kwargs = kwargs or {}
        if not self.why and self._place and _is_elsewhere((args, kwargs), self._place):
            self.why = f"it works on a tensor that is not on {self._place} ({func})"
        if not self.why and not _is_fixed(func, args, kwargs):
            self.why = next((f"it {why} ({func})" for tag, why in REFUSED if tag in func.tags), "")
        return func(*args, **kwargs)


def _is_elsewhere(arguments: Any, place: str) -> bool:
    """Whether an operation reads a tensor of another device. Those without sizes are constants."""
    leaves = torch_internals.pytree().tree_flatten(arguments)[0]
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    return any(tensor.dim() and tensor.device.type != place for tensor in tensors)


def _is_fixed(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation does not do, with these arguments, what its tags say that it may."""
    if func is torch.ops.aten.index.Tensor:
        # Only a mask picks as many as it happens to hold.
        return all(i is None or i.dtype not in (torch.bool, torch.uint8) for i in args[1])
    # An attention that may drop weights at random, and drops none.
    names = torch_internals.argument_names(func)
    if "dropout_p" not in names:
        return False
    index = names.index("dropout_p")
    return not (args[index] if index < len(args) else kwargs.get("dropout_p", 0.0))
