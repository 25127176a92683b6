"""An entry point as a module with tensors in and tensors out, for exporters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from compilekit.build.capture import Captured
from compilekit.bundle.calls import laid_out, order_of, tensors_in, with_leaves


class Flat(nn.Module):
    """Takes the tensors of one captured call. The call's constants are built in.

    Arguments that signatures ignore (random generators) are left out.
    """

    def __init__(self, call: Captured) -> None:
        super().__init__()
        self.owner = call.entry.owner
        self._function = call.entry.function
        self._places = {path: index for index, path in enumerate(call.tensors)}
        self._arguments = call.arguments
        self.eval()

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Make the call, and flatten its result."""

        def filled(path: str, leaf: Any) -> Any:
            if path in self._places:
                return tensors[self._places[path]]
            return None if isinstance(leaf, torch.Generator) else leaf

        return tuple(tensors_in(self._function(**with_leaves(self._arguments, filled))))


def inputs_of(call: Captured) -> tuple[torch.Tensor, ...]:
    """The tensors of a call, fresh and without gaps, in the order that `Flat` takes them."""
    return tuple(
        laid_out(tensor.clone(memory_format=torch.preserve_format), order_of(tensor))
        for tensor in call.tensors.values()
    )
