"""An entry point whose calls are captured once for each kind, and replayed.

Only the driver package's public API is used: `HPUGraph`, streams. All arguments reach the captured
function; whatever is no tensor is part of what makes a kind of call.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

import compilekit as ck
from compilekit.model import EntryPoint
from compilekit_plugins import torch_internals
from compilekit_plugins.gaudi.guard import Guard
from compilekit_plugins.gaudi.keys import (
    Key,
    Padding,
    UnkeyedError,
    difference,
    key_of,
    padding,
    pieces,
)
from compilekit_plugins.gaudi.options import Gaudi
from compilekit_plugins.gaudi.probe import Probe
from compilekit_plugins.gaudi.weights import Watch

pytree = torch_internals.pytree()


Ready = Callable[[Sequence[Any], Callable[[], None]], Any]
"""Answers one kind of call: a graph, or compiled code. Nothing of an answer is written to again.

It is given the leaves, and what to call before the part that must compile nothing.
"""

Maker = Callable[[Callable[..., Any], Sequence[Any], Any, str], Ready]
"""Captures or compiles: a function, the leaves and structure of its arguments, and its title."""


@dataclass
class Counts:
    """What an entry point did."""

    captures: int = 0
    replays: int = 0
    padded: int = 0
    dropped: int = 0
    renewed: int = 0
    eager: Counter[str] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        """What is not nothing; captures and replays always."""
        counts = {**vars(self), "eager": dict(self.eager)}
        return {n: count for n, count in counts.items() if count or n in ("captures", "replays")}


class Inside(threading.local):
    """Whether this thread is inside of an entry point: one within another is part of its graph."""

    now = False

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be inside for a while."""
        self.now = True
        try:
            yield
        finally:
            self.now = False


@dataclass(eq=False, repr=False)
class Captured:
    """Stands in an entry point's place.

    around: in what each call runs.
    named: whether it must be captured, and may not run as it is.
    """

    entry: EntryPoint
    options: Gaudi
    make: Maker
    guard: Guard
    inside: Inside
    around: Callable[[], contextlib.AbstractContextManager[Any]]
    named: bool

    def __post_init__(self) -> None:
        self._title = f"{self.guard.key}: {self.entry.name}"
        self._python = self.entry.function
        self._watch = Watch(self.entry.owner)
        self._ready: OrderedDict[Key, Ready] = OrderedDict()
        self._covered: set[Key] = set()
        self._uncaptured: dict[Key, str] = {}
        self._lock = threading.RLock()
        self.counts = Counts()
        functools.update_wrapper(self, self._python)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Answer a call as the entry point would."""
        if self.inside.now:
            return self._python(*args, **kwargs)
        with self._lock, self.inside.entered(), self.around():
            return self._answer(args, kwargs)

    def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        leaves, structure = pytree.tree_flatten((args, kwargs))
        try:
            key = key_of(leaves, structure)
        except UnkeyedError as error:
            return self._eagerly(str(error), args, kwargs)
        if torch.is_grad_enabled():
            return self._eagerly("gradients are on", args, kwargs)
        self._renew()
        is_late = self.guard.is_sealed and key not in self._covered
        if is_late and self.options.outside != "capture":
            return self._outside(key, leaves, structure)
        return self._covering(key, leaves, structure)

    def _covering(self, key: Key, leaves: Sequence[Any], structure: Any) -> Any:
        """Answer a call of a kind that is, or is to be, covered."""
        if key in self._uncaptured:
            args, kwargs = pytree.tree_unflatten(list(leaves), structure)
            return self._eagerly(self._uncaptured[key], args, kwargs)
        if key in self._ready:
            self._ready.move_to_end(key)
            result = self._ready[key](leaves, self.guard.start)
            self.counts.replays += 1
            self.guard.check(self.entry.name)
            return result
        return self._first(key, leaves, structure)

    def _eagerly(self, why: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.counts.eager[why] += 1
        return self._python(*args, **kwargs)

    def _renew(self) -> None:
        """Forget graphs of weights that are not the module's any more."""
        if self._watch.changed():
            self.counts.renewed += len(self._ready)
            self._ready.clear()
            self._uncaptured.clear()

    def _outside(self, key: Key, leaves: Sequence[Any], structure: Any) -> Any:
        """A call of a kind that was not warmed up."""
        how = "say `outside: round` or `outside: capture`"
        if self.options.outside == "round":
            fit = padding(key, self._covered)
            if fit is not None:
                return self._padded(fit, leaves, structure)
            how = "no batch of that size was warmed up"
        covered = "; ".join(map(str, self._covered)) or "none"
        raise ck.UncoveredCallError(
            f"{self._title}: called with {key}{difference(key, self._covered)}, which was "
            f"not warmed up; covered are {covered}. "
            f"Name its size in `shapes:`; {how}"
        )

    def _padded(self, fit: Padding, leaves: Sequence[Any], structure: Any) -> Any:
        """Answer by calls of a batch that was warmed up, the last one filled with copies."""
        results = []
        for piece, real in pieces(leaves, fit):
            values, shape = pytree.tree_flatten(self._covering(fit.key, piece, structure))
            self.counts.padded += fit.into - real
            results.append([_cut(value, fit.into, real) for value in values])
        joined = [_joined(column, fit.rows) for column in zip(*results, strict=True)]
        return pytree.tree_unflatten(joined, shape)

    def _first(self, key: Key, leaves: Sequence[Any], structure: Any) -> Any:
        """The first call of a kind: run once as it is, to see whether it can be captured."""
        args, kwargs = pytree.tree_unflatten(list(leaves), structure)
        with Probe(place := _place(self.entry.owner)) as probe:
            result = self._python(*args, **kwargs)
        why = _on_host(leaves, place) or probe.why or _uncloneable(result)
        self._covered.add(key)
        if why:
            if self.named:
                raise ck.StepError(f"{self._title} cannot be captured: {why}")
            self._uncaptured[key] = why
            self.counts.eager[why] += 1
            return result
        self._make_room()
        self._ready[key] = self.make(self._python, leaves, structure, self._title)
        self.counts.captures += 1
        return result

    def _make_room(self) -> None:
        if len(self._ready) < self.options.max_graphs:
            return
        if not self.guard.is_sealed:
            raise ck.StepError(
                f"{self._title}: the warm-up needs more than max_graphs={self.options.max_graphs} "
                "graphs: raise it, or name fewer `shapes:`"
            )
        self._ready.popitem(last=False)
        self.counts.dropped += 1


def _cut(value: Any, rows: int, real: int) -> Any:
    is_row = isinstance(value, torch.Tensor) and value.dim() and value.shape[0] == rows
    return value[:real] if is_row else value


def _joined(column: Sequence[Any], rows: int) -> Any:
    first = column[0]
    if not isinstance(first, torch.Tensor) or not first.dim():
        return first
    return torch.cat(list(column)) if sum(part.shape[0] for part in column) == rows else first


def _place(owner: torch.nn.Module) -> str:
    """The kind of device that a module is on; empty if it has no weights."""
    weights = itertools.chain(owner.parameters(), owner.buffers())
    return next((weight.device.type for weight in weights), "")


def _on_host(leaves: Sequence[Any], place: str) -> str:
    """Why a call's arguments cannot be a graph's inputs: a replay copies none from the host."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    other = [tensor for tensor in tensors if place and tensor.device.type != place]
    if not other:
        return ""
    return (
        f"it is given a tensor {list(other[0].shape)} on {other[0].device.type}: move it to {place}"
    )


def _uncloneable(result: Any) -> str:
    """Why an output cannot be copied out of a graph's own memory; empty if it can."""
    for leaf in pytree.tree_flatten(result)[0]:
        if not isinstance(leaf, torch.Tensor | bool | int | float | str | None):
            return f"it gives a {type(leaf).__name__}"
    return ""
