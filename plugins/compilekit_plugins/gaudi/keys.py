"""Which calls of an entry point are of one kind, and which fit another kind's batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import torch

PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device, torch.Size, Enum)
"""What is told apart by its value; a graph holds it as a constant."""


class Tensor(NamedTuple):
    """A tensor of a call."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: str


class Value(NamedTuple):
    """A constant of a call. True, 1 and 1.0 are equal, and not the same."""

    kind: type
    value: Any


@dataclass(frozen=True)
class Key:
    """What makes a kind of call: structure, tensors, constants, and modes of the process."""

    structure: str
    leaves: tuple[Tensor | Value, ...]
    modes: tuple[Any, ...]

    @property
    def constants(self) -> str:
        """What is no tensor, in words."""
        return ", ".join(repr(leaf.value) for leaf in self.leaves if isinstance(leaf, Value))

    def __str__(self) -> str:
        tensors = [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]
        shown = (f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for t in tensors)
        return ", ".join(shown) or "no tensors"


def difference(key: Key, known: Iterable[Key]) -> str:
    """How a call differs from those that are known, where its tensors do not; else nothing."""
    alike = [other for other in known if str(other) == str(key)]
    if not alike:
        return ""
    if alike[0].modes != key.modes:
        return " in another mode of autocast"
    if alike[0].structure != key.structure:
        return " with other arguments"
    return f" with the constants {key.constants}, and not {alike[0].constants}"


class UnkeyedError(Exception):
    """A call holds something that no graph can be captured for."""


def key_of(leaves: Sequence[Any], structure: Any) -> Key:
    """The kind of a call, from its flattened arguments."""
    autocast = torch.is_autocast_enabled("hpu"), torch.get_autocast_dtype("hpu")
    return Key(str(structure), tuple(map(_leaf, leaves)), autocast)


def _leaf(leaf: Any) -> Tensor | Value:
    if type(leaf) in (torch.Tensor, torch.nn.Parameter):
        return Tensor(tuple(leaf.shape), leaf.dtype, leaf.device.type)
    if isinstance(leaf, torch.Generator):
        # Pipelines pass it along; what draws numbers from it is not captured at all.
        return Value(torch.Generator, None)
    if isinstance(leaf, PLAIN):
        return Value(type(leaf), leaf)
    raise UnkeyedError(f"a {type(leaf).__name__} among its arguments")


class Padding(NamedTuple):
    """A kind of call that others can be padded to: so many rows in place of those."""

    key: Key
    rows: int
    into: int


def padding(key: Key, known: Iterable[Key]) -> Padding | None:
    """The smallest batch that holds a call, or the largest, to be filled several times."""
    fits = [fit for other in known if (fit := _padding(key, other)) is not None]
    wide = [fit for fit in fits if fit.into >= fit.rows]
    if wide:
        return min(wide, key=lambda fit: fit.into)
    return max(fits, key=lambda fit: fit.into, default=None)


def _padding(key: Key, other: Key) -> Padding | None:
    same = key.structure == other.structure and key.modes == other.modes
    if not same or len(key.leaves) != len(other.leaves):
        return None
    pairs = set()
    for leaf, like in zip(key.leaves, other.leaves, strict=True):
        if leaf == like:
            continue
        if not (
            isinstance(leaf, Tensor) and isinstance(like, Tensor) and leaf.shape and like.shape
        ):
            return None
        if leaf._replace(shape=leaf.shape[1:]) != like._replace(shape=like.shape[1:]):
            return None
        pairs.add((leaf.shape[0], like.shape[0]))
    # Rows of one call go together: all of its tensors have the same number of them.
    return Padding(other, *pairs.pop()) if len(pairs) == 1 else None


def pieces(leaves: Sequence[Any], fit: Padding) -> Iterator[tuple[list[Any], int]]:
    """The calls of the other kind that do a call's work, and how many rows of each are real."""
    for start in range(0, fit.rows, fit.into):
        real = min(fit.into, fit.rows - start)
        piece = [
            _rows(leaf, start, real, fit.into) if _varies(leaf, like) else leaf
            for leaf, like in zip(leaves, fit.key.leaves, strict=True)
        ]
        yield piece, real


def _varies(leaf: Any, like: Tensor | Value) -> bool:
    return isinstance(like, Tensor) and tuple(leaf.shape) != like.shape


def _rows(tensor: torch.Tensor, start: int, real: int, into: int) -> torch.Tensor:
    rows = tensor[start : start + real]
    if real == into:
        return rows
    # The last row again: a row of zeros may be no number after a division.
    return torch.cat([rows, rows[-1:].expand(into - real, *rows.shape[1:])])
