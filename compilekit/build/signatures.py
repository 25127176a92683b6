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
from compilekit.bundle.calls import leaves, signature_of, tensors_in, with_leaves
from compilekit.bundle.signature import INTEGERS, Signature, TensorArgument

HALVES = ("bfloat16", "float16")


@dataclass(frozen=True)
class Wanted:
    """A signature to compile, with the captured calls that it must serve.

    example: the call with the largest sizes, since compilers treat a size of 1 as special.
    """

    signature: Signature
    calls: tuple[Captured, ...]

    @property
    def example(self) -> Captured:
        """The call to compile with."""
        return max(self.calls, key=_volume)


def _volume(call: Captured) -> int:
    found = leaves(call.arguments).values()
    return sum(leaf.numel() for leaf in found if isinstance(leaf, torch.Tensor))


def wanted(calls: Sequence[Captured], sizes: Sizes) -> list[Wanted]:
    """The signatures that serve these calls of one entry point."""
    plain = [(signature_of(leaves(call.arguments)), call) for call in calls]
    groups: dict[object, list[tuple[Signature, Captured]]] = defaultdict(list)
    for signature, call in plain:
        groups[_group(signature, sizes)].append((signature, call))
    return [_merged(group) for group in groups.values()]


def apart(group: Wanted) -> list[Wanted]:
    """The same calls, with one signature per size."""
    return wanted(group.calls, "fixed")


def _group(signature: Signature, sizes: Sizes) -> object:
    """Equal for signatures that may become one."""
    rest = signature.constants, signature.ignored
    return tuple(_masked(tensor, sizes) for tensor in signature.tensors), rest


def _masked(tensor: TensorArgument, sizes: Sizes) -> object:
    shape: tuple[object, ...] = tensor.shape
    if sizes == "any":
        shape = (len(shape),)
    elif sizes == "batch":
        shape = ("batch", *shape[1:]) if shape else ()
    return tensor.path, tensor.dtype, tensor.order, tensor.device, shape


def _merged(group: Sequence[tuple[Signature, Captured]]) -> Wanted:
    first = group[0][0]
    calls = tuple(call for _, call in group)
    symbols: dict[tuple[int, ...], str] = {}
    tensors = []
    for position, tensor in enumerate(first.tensors):
        shapes = [signature.tensors[position].shape for signature, _ in group]
        sizes = [_size(column, symbols) for column in zip(*shapes, strict=True)]
        tensors.append(tensor.model_copy(update={"shape": tuple(sizes)}))
    return Wanted(first.model_copy(update={"tensors": tuple(tensors)}), calls)


def _size(column: Sequence[Any], symbols: dict[tuple[int, ...], str]) -> int | Range:
    """One dimension over all calls: a size or a range. Proportional ranges share a symbol."""
    if len(set(column)) == 1:
        return int(column[0])
    times = math.gcd(*column)
    relative = tuple(size // times for size in column)
    symbol = symbols.setdefault(relative, f"s{len(symbols)}")
    return Range(least=min(column), most=max(column), symbol=symbol, times=times)


def widened(call: Captured, run: Any) -> Captured:
    """The call with small tensors as float32, if the component's result is exactly the same.

    Schedulers pass timesteps as integers or floats, rounded or not. Code compiled for float32
    serves all of them.
    """
    found = leaves(call.arguments)
    small = [
        path
        for path, leaf in found.items()
        if isinstance(leaf, torch.Tensor)
        and leaf.dim() < 2  # noqa: PLR2004
        and str(leaf.dtype).removeprefix("torch.") in (*INTEGERS, *HALVES)
    ]
    if not small:
        return call
    wide = set(small)
    arguments = with_leaves(
        call.arguments, lambda path, leaf: leaf.float() if path in wide else leaf
    )
    with torch.no_grad():
        before = tensors_in(run(call.arguments))
        try:
            after = tensors_in(run(arguments))
        except (RuntimeError, TypeError, ValueError, IndexError):
            return call  # an index into a table, say, must be an integer
    same = len(before) == len(after) and all(
        (one.shape, one.dtype) == (other.shape, other.dtype) and torch.equal(one, other)
        for one, other in zip(before, after, strict=True)
    )
    return Captured(call.entry, arguments) if same else call
