"""From captured calls to signatures. Sizes that vary together become one symbol."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from compilekit.base.words import Range, Sizes
from compilekit.build.capture import Captured
from compilekit.bundle.calls import leaves, name_of, signature_of, tensors_in, with_leaves
from compilekit.bundle.signature import INTEGERS, SMALL, Signature, TensorArgument

HALVES = ("bfloat16", "float16")


@dataclass(frozen=True)
class Group:
    """A signature to compile, with the captured calls that it must serve.

    example: the call with the largest sizes, since compilers treat a size of 1 as special.
    """

    signature: Signature
    calls: tuple[Captured, ...]

    @property
    def example(self) -> Captured:
        """The call to compile with."""
        return max(
            self.calls, key=lambda call: sum(tensor.numel() for tensor in call.tensors.values())
        )


def groups_of(calls: Sequence[Captured], sizes: Sizes) -> list[Group]:
    """The signatures that serve these calls of one entry point."""
    groups: dict[object, list[tuple[Signature, Captured]]] = defaultdict(list)
    for call in calls:
        signature = signature_of(leaves(call.arguments))
        # Equal for signatures that may become one.
        masked = tuple(_masked(tensor, sizes) for tensor in signature.tensors)
        groups[masked, signature.constants, signature.ignored].append((signature, call))
    return [_merged(group) for group in groups.values()]


def _masked(tensor: TensorArgument, sizes: Sizes) -> object:
    shape: tuple[object, ...] = tensor.shape
    if sizes == "any":
        shape = (len(shape),)
    elif sizes == "batch":
        shape = ("batch", *shape[1:]) if shape else ()
    return tensor.path, tensor.dtype, tensor.order, tensor.device, shape


def _merged(group: Sequence[tuple[Signature, Captured]]) -> Group:
    first = group[0][0]
    calls = tuple(call for _, call in group)
    symbols: dict[tuple[int, ...], str] = {}
    tensors = []
    for position, tensor in enumerate(first.tensors):
        shapes = [signature.tensors[position].shape for signature, _ in group]
        sizes = [_size(column, symbols) for column in zip(*shapes, strict=True)]
        tensors.append(tensor.model_copy(update={"shape": tuple(sizes)}))
    return Group(first.model_copy(update={"tensors": tuple(tensors)}), calls)


def _size(column: Sequence[Any], symbols: dict[tuple[int, ...], str]) -> int | Range:
    """One dimension over all calls: a size or a range. Proportional ranges share a symbol."""
    if len(set(column)) == 1:
        return int(column[0])
    times = math.gcd(*column)
    relative = tuple(size // times for size in column)
    symbol = symbols.setdefault(relative, f"s{len(symbols)}")
    return Range(least=min(column), most=max(column), symbol=symbol, times=times)


def widened(call: Captured) -> Captured:
    """The call with small tensors as float32, if the component's result is exactly the same.

    Schedulers pass timesteps as integers or floats, rounded or not. Code compiled for float32
    serves all of them.
    """
    small = {
        path
        for path, tensor in call.tensors.items()
        if tensor.dim() < SMALL and name_of(tensor.dtype) in (*INTEGERS, *HALVES)
    }
    if not small:
        return call
    arguments = with_leaves(
        call.arguments, lambda path, leaf: leaf.float() if path in small else leaf
    )
    wide = Captured(call.entry, arguments)
    with torch.no_grad():
        before = tensors_in(call.again())
        try:
            after = tensors_in(wide.again())
        except (RuntimeError, TypeError, ValueError, IndexError):
            return call  # an index into a table, say, must be an integer
    same = len(before) == len(after) and all(
        (old.shape, old.dtype) == (new.shape, new.dtype) and torch.equal(old, new)
        for old, new in zip(before, after, strict=True)
    )
    return wide if same else call
