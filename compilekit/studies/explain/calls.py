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
    usages: dict[str, Usage] = {}
    running: list[object] = []

    def counted(entry: EntryPoint) -> Callable[..., Any]:
        function = entry.function

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if any(owner is entry.owner for owner in running):  # a call of its own
                return function(*args, **kwargs)
            used = usages.setdefault(entry.name, Usage())
            used.calls += 1
            used.ways.add(describe_call(entry, args, kwargs))
            running.append(entry.owner)
            try:
                seconds, result = timed(lambda: function(*args, **kwargs), model.wait)
            finally:
                running.pop()
            used.seconds += seconds
            return result

        return call

    entries = [entry for name in model.modules for entry in model.entry_points(name)]
    with contextlib.ExitStack() as stack:
        for entry in entries:
            stack.enter_context(entry.standing_in(counted(entry)))
        seconds, _ = timed(run, model.wait)
    return usages, seconds
