"""Float32 weights that are made when they are read: what the reference computes with.

A whole component in float32 takes twice the memory of the one in bfloat16. So each weight is
replaced by a tensor that says that it is float32, and holds nothing. Whenever an operation reads
it, the weight is fetched, dequantised and cast, as far as that is needed, and dropped afterwards.
The same kernels get the same numbers as in a float32 model, so the outputs are equal to the bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from compilekit.base.diffusers_internals import compute_dtype, offloaded_weights, unhooked
from compilekit.base.nested import mapped
from compilekit.base.torch_internals import (
    NO_TORCH_FUNCTION,
    own_buffers,
    own_parameters,
    wrapper_tensor,
    writes,
)
from compilekit.errors import ModelError

AS_LOADED = "say `verify: {reference: as_loaded}` to compare with the model as it was loaded"

PRECISE = (torch.float32, torch.float64)
"""The dtypes that the reference computes in."""

PLAIN = (torch.Tensor, nn.Parameter, nn.Buffer)

_ALIASES = (torch.ops.aten.detach.default, torch.ops.aten.alias.default)


class Wide(torch.Tensor):
    """A weight that says that it is float32, and is made so each time that it is read."""

    __torch_function__ = NO_TORCH_FUNCTION

    read: Callable[[], torch.Tensor]

    @classmethod
    def of(
        cls,
        read: Callable[[], torch.Tensor],
        like: torch.Tensor,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Wide:
        """Make one of the shape and the strides of `like`, which gets its value from `read`."""
        wide: Wide = wrapper_tensor(cls, like.shape, dtype, device, like.stride())
        wide.read = read
        return wide

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation on plain tensors."""
        del types
        if func in _ALIASES:
            return cls.of(args[0].read, args[0], args[0].dtype, args[0].device)
        get = Wide._kept if writes(func) else Wide._value

        def plain(_: str, value: Any) -> Any:
            return get(value) if isinstance(value, Wide) else value

        return func(*mapped(args, plain), **mapped(kwargs or {}, plain))

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Wide({tuple(self.shape)}, {self.dtype})"

    def _value(self) -> torch.Tensor:
        tensor = self.read()
        if _is_quantised(tensor):
            tensor = tensor.dequantize()
        return tensor.to(self.device, self.dtype)

    def _kept(self) -> torch.Tensor:
        """The value, to be written to: it stays as long as this does."""
        value = self._value().clone()
        self.read = lambda: value
        return value


@contextlib.contextmanager
def upcast(module: nn.Module, name: str) -> Iterator[torch.device | None]:
    """Let a module compute in float32, and restore its weights afterwards.

    Gives the device that inputs must be moved to, if accelerate moves them otherwise.
    """
    if any(compute_dtype(part) not in (None, *PRECISE) for part in module.modules()):
        raise ModelError(f"{name} casts its weights for each call; {AS_LOADED}")
    moved = offloaded_weights(module)
    tensors: dict[int, torch.Tensor] = {}
    places: list[tuple[nn.Module, str, torch.Tensor]] = []
    for path, part in module.named_modules():
        buffers = ((key, tensor) for key, tensor, _ in own_buffers(part))
        for key, tensor in (*own_parameters(part), *buffers):
            full = f"{path}.{key}".lstrip(".")
            device, read = moved.get(full, (tensor.device, None))
            if tensor.is_meta and read is None:
                raise ModelError(f"{name}.{full} is not in memory; {AS_LOADED}")
            if full in moved or _is_low(tensor):
                places.append((part, key, tensor))
                # A weight under two names stays one.
                if id(tensor) not in tensors:
                    tensors[id(tensor)] = _widened(tensor, read, device)
    try:
        for part, key, tensor in places:
            setattr(part, key, tensors[id(tensor)])
        with unhooked(module):
            yield next((device for device, _ in moved.values()), None)
    finally:
        for part, key, tensor in places:
            setattr(part, key, tensor)


def is_float32(module: nn.Module) -> bool:
    """Whether a module computes in float32, or in float64, as it is."""
    tensors = (*module.parameters(), *module.buffers())
    return not any(tensor.is_meta or _is_low(tensor) for tensor in tensors)


def _widened(
    tensor: torch.Tensor, read: Callable[[], torch.Tensor] | None, device: torch.device
) -> torch.Tensor:
    dtype = torch.float32 if _is_low(tensor) else tensor.dtype
    wide = Wide.of(read or (lambda: tensor), tensor, dtype, device)
    return nn.Parameter(wide, requires_grad=False) if isinstance(tensor, nn.Parameter) else wide


def _is_low(tensor: torch.Tensor) -> bool:
    is_low = tensor.is_floating_point() and tensor.dtype not in PRECISE
    return is_low or _is_quantised(tensor)


def _is_quantised(tensor: torch.Tensor) -> bool:
    """Whether it is a subclass that holds a weight in another form."""
    return type(tensor.data) not in PLAIN and not isinstance(tensor, Wide)
