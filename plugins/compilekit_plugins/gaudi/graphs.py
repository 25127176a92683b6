"""HPU graphs, and torch.compile for the HPU: what answers one kind of call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

import compilekit as ck
from compilekit_plugins import torch_internals
from compilekit_plugins.gaudi.worker import driver

pytree = torch_internals.pytree()

_broken: list[str] = []
"""Why no capture can be begun in this process any more."""


class Graph:
    """A captured call: its own inputs, which are written to, and outputs, which are copied."""

    def __init__(
        self, function: Callable[..., Any], leaves: Sequence[Any], structure: Any, where: str
    ) -> None:
        if _broken:
            raise ck.MachineError(f"{where} cannot be captured: {_broken[0]}; start a new process")
        hpu = driver.hpu()
        self._stream = hpu.Stream()
        self._graph = hpu.HPUGraph()
        self._inputs = [_copied(leaf) for leaf in leaves]
        args, kwargs = pytree.tree_unflatten(list(self._inputs), structure)
        with hpu.stream(self._stream):
            self._graph.capture_begin()
            try:
                self._outputs = function(*args, **kwargs)
            except BaseException as error:
                self._close(where, error)
                raise ck.StepError(
                    f"{where} cannot be captured: {type(error).__name__}: {error}"
                ) from error
            self._graph.capture_end()

    def _close(self, where: str, error: BaseException) -> None:
        """End a capture that failed: left open, it would record all that follows."""
        try:
            self._graph.capture_end()
        except Exception as second:  # noqa: BLE001 - whatever it is, it is told to whoever captures next
            _broken.append(
                f"the capture of {where} failed ({type(error).__name__}: {error}), and could not "
                f"be ended ({type(second).__name__}: {second})"
            )

    def __call__(self, leaves: Sequence[Any], begin: Callable[[], None]) -> Any:
        """Replay it for other tensors."""
        with driver.hpu().stream(self._stream):
            copy_into(self._inputs, leaves)
            begin()
            self._graph.replay()
            return pytree.tree_map(_copied, self._outputs)


def copy_into(inputs: Sequence[Any], leaves: Sequence[Any]) -> None:
    """Write the tensors of a call over those that the graph reads."""
    for old, new in zip(inputs, leaves, strict=True):
        if isinstance(old, torch.Tensor):
            old.copy_(new)


def _copied(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf


class Compiled:
    """Code by torch.compile, for one kind of call."""

    def __init__(
        self, function: Callable[..., Any], leaves: Sequence[Any], structure: Any, where: str
    ) -> None:
        del where
        self._structure = structure
        self._code = torch.compile(function, backend="hpu_backend", dynamic=False)
        self(leaves, lambda: None)

    def __call__(self, leaves: Sequence[Any], begin: Callable[[], None]) -> Any:
        """Run it."""
        begin()
        args, kwargs = pytree.tree_unflatten(list(leaves), self._structure)
        # torch gives up, without a word, on a function that was compiled eight times.
        with torch_internals.dynamo_config().patch(recompile_limit=1024):
            return self._code(*args, **kwargs)
