"""What a step did to a module, found by looking at the module before and after.

A snapshot holds no weights: of each tensor it keeps a sample of values in logical order, which
a change of memory layout leaves as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from compilekit.base import torch_internals
from compilekit.base.diffusers_internals import OLD_FORWARD, attention_backend_of
from compilekit.base.words import CHANGES, Change

_SAMPLE = 1024
_SWITCHES = ("training", "use_tiling", "use_slicing")
# What runs a component. Other methods of an instance (saving, say) do not steer its outputs.
_RUNS = ("forward", "encode", "decode", OLD_FORWARD)


@dataclass(frozen=True, eq=False)
class TensorLook:
    """A parameter or buffer; strides of dimensions of size 1 say nothing and are left out."""

    kind: type
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    layout: torch.layout
    device: torch.device
    sample: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class ModuleLook:
    """A submodule: what it is, and what was put on this instance to change how it runs."""

    kind: type
    processor: type | None
    compiled: list[object] = field(default_factory=list)
    overrides: Mapping[str, object] = field(default_factory=dict)
    hooks: tuple[object, ...] = ()
    switches: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A module at one moment, by the names of its submodules and tensors; its own name is ""."""

    modules: Mapping[str, ModuleLook]
    tensors: Mapping[str, TensorLook]


def look(module: nn.Module) -> Snapshot:
    """Take a snapshot. What `torch.compile(module)` wraps keeps the name that it had before."""
    modules: dict[str, ModuleLook] = {}
    tensors: dict[str, TensorLook] = {}
    wrappers: dict[str, list[object]] = {}
    sampler = _Sampler()
    for path, child in module.named_modules():
        name = ".".join(part for part in path.split(".") if part != torch_internals.WRAPPED)
        if torch_internals.is_wrapper(child):
            wrappers.setdefault(name, []).extend(_wrapping(child))
            continue
        modules[name] = _look_at_module(child, wrappers.get(name, []))
        own_tensors = (*child.named_parameters(recurse=False), *child.named_buffers(recurse=False))
        for key, tensor in own_tensors:
            tensors[f"{name}.{key}" if name else key] = _look_at_tensor(tensor, sampler)
    return Snapshot(modules, tensors)


def _wrapping(wrapper: nn.Module) -> list[object]:
    """What `torch.compile(module)` made, and what was compiled around it since."""
    return [wrapper, vars(wrapper).get("forward"), torch_internals.compiled_call(wrapper)]


def changes(before: Snapshot, after: Snapshot) -> dict[Change, list[str]]:
    """What changed, and the names of the submodules, parameters and buffers concerned."""
    by_kind: dict[Change, list[str]] = {}
    for kind, name in (*_of_modules(before, after), *_of_tensors(before, after)):
        by_kind.setdefault(kind, []).append(name)
    return {kind: by_kind[kind] for kind in CHANGES if kind in by_kind}


def _of_modules(before: Snapshot, after: Snapshot) -> Iterator[tuple[Change, str]]:
    for name in dict.fromkeys((*before.modules, *after.modules)):
        old, new = before.modules.get(name), after.modules.get(name)
        if old is None or new is None:
            yield "structure", name
            continue
        if (old.kind, old.processor) != (new.kind, new.processor):
            yield "structure", name
        if not _same_objects(dict(enumerate(old.compiled)), dict(enumerate(new.compiled))):
            yield "compiled", name
        if (
            old.switches != new.switches
            or not _same_objects(dict(enumerate(old.hooks)), dict(enumerate(new.hooks)))
            or not _same_objects(old.overrides, new.overrides)
        ):
            yield "runtime", name


def _of_tensors(before: Snapshot, after: Snapshot) -> Iterator[tuple[Change, str]]:
    for name in dict.fromkeys((*before.tensors, *after.tensors)):
        old, new = before.tensors.get(name), after.tensors.get(name)
        if old is None or new is None:
            owner = name.rpartition(".")[0]
            if owner in before.modules and owner in after.modules:
                yield "structure", name
            continue
        if old.device != new.device:
            yield "runtime", name
        if old.shape != new.shape:
            yield "structure", name
        elif old.kind != new.kind:
            yield "weights", name
        else:
            if not _same_values(old, new):
                yield "weights", name
            if (old.stride, old.layout) != (new.stride, new.layout):
                yield "layout", name
            if old.dtype != new.dtype:
                yield "dtype", name


def _look_at_module(module: nn.Module, wrappers: list[object]) -> ModuleLook:
    attributes = vars(module)
    overrides: dict[str, object] = {}
    compiled = [*wrappers]
    if (call := torch_internals.compiled_call(module)) is not None:
        compiled.append(call)
    for name, value in attributes.items():
        if name not in _RUNS or not callable(value):
            continue
        innermost = _compiled_in(value)
        if innermost is not None and not any(innermost is known for known in compiled):
            compiled.append(innermost)
        plain = torch_internals.original_of(value) if innermost is value else value
        if not _is_of_class(plain, module, name):
            overrides[name] = plain
    processor = attributes.get("processor")
    switches = {name: attributes[name] for name in _SWITCHES if name in attributes}
    # diffusers keeps the choice of an attention kernel on the processor.
    switches["attention_backend"] = attention_backend_of(processor)
    hooks = tuple(torch_internals.hooks_of(module))
    return ModuleLook(
        kind=type(module),
        processor=None if processor is None else type(processor),
        compiled=compiled,
        overrides=overrides,
        hooks=hooks,
        switches=switches,
    )


def _compiled_in(function: object) -> object | None:
    """The result of torch.compile in a callable: wrappers copy its attributes."""
    innermost: object | None = None
    while torch_internals.original_of(function) is not None:
        innermost = function
        function = getattr(function, "__wrapped__", None)
    return innermost


def _is_of_class(function: object, module: nn.Module, name: str) -> bool:
    return (
        isinstance(function, MethodType)
        and function.__self__ is module
        and function.__func__ is getattr(type(module), name, None)
    )


def _same_objects(old: Mapping[Any, object], new: Mapping[Any, object]) -> bool:
    return old.keys() == new.keys() and all(_is_same(old[key], new[key]) for key in old)


def _is_same(old: object, new: object) -> bool:
    # A bound method is a new object each time that it is looked up.
    return old is new or (isinstance(old, MethodType) and old == new)


def _look_at_tensor(tensor: Tensor, sampler: _Sampler) -> TensorLook:
    lazy = nn.parameter.is_lazy(tensor)
    shape = () if lazy else tuple(tensor.shape)
    strided = not lazy and tensor.layout is torch.strided
    strides = zip(_dense_stride(tensor), shape, strict=True) if strided else ()
    return TensorLook(
        kind=Tensor if type(tensor) is nn.Parameter else type(tensor),
        dtype=tensor.dtype,
        shape=shape,
        stride=tuple(stride for stride, size in strides if size > 1),
        layout=tensor.layout,
        device=tensor.device,
        sample=() if lazy else sampler.take(tensor),
    )


def _dense_stride(tensor: Tensor) -> tuple[int, ...]:
    """The strides; of an expanded tensor or one with gaps, those of a copy in the same order."""
    if type(tensor) not in (Tensor, nn.Parameter):
        return tensor.stride()
    return torch.empty_like(tensor, device="meta").stride()


class _Sampler:
    """Takes samples; what it works out for one shape serves every tensor of that shape."""

    def __init__(self) -> None:
        self._indices: dict[object, tuple[Tensor, ...]] = {}

    @torch.no_grad()
    def take(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Values of a tensor, or of those inside a quantised one; nothing where that fails."""
        if tensor.is_meta:
            return ()
        if hasattr(tensor, "__tensor_flatten__"):
            parts = [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
            return tuple(value for part in parts for value in self.take(part))
        with contextlib.suppress(RuntimeError, TypeError):
            return (self._gather(tensor),)
        if type(tensor) not in (Tensor, nn.Parameter):
            with contextlib.suppress(RuntimeError, TypeError):
                return (self._gather(tensor.dequantize()),)
        return ()

    def _gather(self, tensor: Tensor) -> Tensor:
        return tensor[self._index(tensor)].as_subclass(Tensor).reshape(-1).cpu()

    def _index(self, tensor: Tensor) -> tuple[Tensor, ...]:
        key = (tensor.shape, tensor.device)
        if key not in self._indices:
            # An odd step visits all columns of a matrix whose width is even.
            step = -(-tensor.numel() // _SAMPLE) | 1
            flat = torch.arange(0, tensor.numel(), step, device=tensor.device)
            self._indices[key] = torch.unravel_index(flat, tensor.shape)
        return self._indices[key]


def _same_values(old: TensorLook, new: TensorLook) -> bool:
    if len(old.sample) != len(new.sample):
        # Without a sample on one side, as on the meta device, nothing is known.
        return not old.sample or not new.sample
    return all(_close(one, other) for one, other in zip(old.sample, new.sample, strict=True))


def _close(old: Tensor, new: Tensor) -> bool:
    if old.dtype == new.dtype:
        # As bytes, since NaN differs from itself.
        return torch.equal(old.contiguous().view(torch.uint8), new.contiguous().view(torch.uint8))
    limits = [torch.finfo(tensor.dtype) for tensor in (old, new) if tensor.is_floating_point()]
    wide = torch.complex128 if old.is_complex() or new.is_complex() else torch.float64
    return torch.allclose(
        old.to(wide),
        new.to(wide),
        rtol=max((2 * tensor.eps for tensor in limits), default=0.0),
        atol=max((tensor.smallest_normal for tensor in limits), default=0.0),
        equal_nan=True,
    )
