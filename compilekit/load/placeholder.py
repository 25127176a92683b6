"""A placeholder for a weight that is inside compiled code: a shape without values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from compilekit.base import torch_internals
from compilekit.base.nested import leaves
from compilekit.errors import SealedError


class Placeholder(torch.Tensor):
    """Shape, dtype and device of a weight, for pipelines that read them. Using it raises."""

    reason: str

    @staticmethod
    def like(
        shape: Sequence[int], dtype: torch.dtype, device: torch.device, reason: str
    ) -> Placeholder:
        """Make one; the reason says where the values are."""
        placeholder: Placeholder = torch_internals.wrapper_tensor(Placeholder, shape, dtype, device)
        placeholder.reason = reason
        return placeholder

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Placeholder({list(self.shape)}, {self.dtype}: {self.reason})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        function: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        inputs = leaves((args, kwargs or {})).values()
        weight = next(leaf for leaf in inputs if isinstance(leaf, Placeholder))
        if function.overloadpacket in (torch.ops.aten.detach, torch.ops.aten.alias):
            return Placeholder.like(weight.shape, weight.dtype, weight.device, weight.reason)
        raise SealedError(f"this weight has no values to work on: {weight.reason}")
