"""What the sample calls: every entry point, how often, in how many ways, and for how long."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from compilekit.engine.recording import describe_call
from compilekit.measure.times import timed
from compilekit.subject.model import EntryPoint, Model


@dataclass
class Usage:
    """How the sample uses one entry point."""

    calls: int = 0
    seconds: float = 0.0
    ways: set[str] = field(default_factory=set)


def usage(model: Model, run: Callable[[], object]) -> tuple[dict[str, Usage], float]:
    """Run the sample, and count; gives the entry points that are called, and the whole time."""
    found: dict[str, Usage] = {}
    inside: list[EntryPoint] = []
    entries = [entry for name in model.modules for entry in model.entry_points(name)]
    with contextlib.ExitStack() as stack:
        for entry in entries:
            stack.enter_context(entry.standing_in(_counted(entry, found, inside, model.wait)))
        seconds, _ = timed(run, model.wait)
    return found, seconds


def _counted(
    entry: EntryPoint,
    found: dict[str, Usage],
    inside: list[EntryPoint],
    wait: Callable[[], None],
) -> Callable[..., Any]:
    function = entry.function

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if any(other.owner is entry.owner for other in inside):  # a call of its own
            return function(*args, **kwargs)
        used = found.setdefault(entry.name, Usage())
        used.calls += 1
        used.ways.add(describe_call(entry, args, kwargs))
        inside.append(entry)
        try:
            seconds, result = timed(lambda: function(*args, **kwargs), wait)
        finally:
            inside.pop()
        used.seconds += seconds
        return result

    return call
