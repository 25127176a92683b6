"""One trial, in a process of its own: a recipe applied to a model, and its sample in one batch.

It is given a `Request` on standard input, and says what it does, a JSON object a line, on what
was standard output. When standard input ends, whoever asked is gone, and it ends too.
"""

from __future__ import annotations

import json
import os
import pickle
import statistics
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compilekit.batching.limits import is_memory
from compilekit.errors import CompilekitError
from compilekit.recipe import Recipe

if TYPE_CHECKING:
    import torch

SECONDS, MOST = 2.0, 3
"""For how long, and how often, a run is timed at the most; once at the least."""


@dataclass(frozen=True)
class Request:
    """What to try.

    make: a folder or hub id, a function that gives the model, or None for the recipe's own.
    limit, share: bytes to be held to, or a share of the GPU.
    """

    recipe: Recipe
    make: Callable[[], Any] | str | None
    inputs: Mapping[str, torch.Tensor] | None
    plugins: tuple[Path, ...]
    batch: int
    limit: int | None
    share: float | None


class Speaker:
    """Says what the trial does, and remembers the last of it."""

    def __init__(self) -> None:
        # What plugins and libraries print goes to standard error.
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self.stage = ""

    def at(self, stage: str) -> None:
        """Say what is being done now."""
        self.stage = stage
        self.say(stage=stage)

    def say(self, **message: Any) -> None:
        """Say something."""
        print(json.dumps(message), file=self._out, flush=True)


def main() -> None:
    """Run the trial that standard input asks for."""
    speaker = Speaker()
    stream = sys.stdin.buffer
    sys.path[:] = pickle.load(stream)  # noqa: S301 - our own process sends it
    request: Request = pickle.load(stream)  # noqa: S301
    threading.Thread(target=_end_with, args=(stream,), daemon=True).start()
    try:
        speaker.say(**_tried(request, speaker))
    except BaseException as error:
        if why := is_memory(error):
            speaker.say(why=f"{speaker.stage}: {why}")
        elif isinstance(error, CompilekitError):
            speaker.say(error=type(error).__name__, message=str(error))
        else:
            raise
    os._exit(0)  # threads of compilers would be waited for


def _end_with(stream: Any) -> None:
    stream.read()
    os._exit(1)


def _tried(request: Request, speaker: Speaker) -> dict[str, Any]:
    speaker.at("loading torch")
    from compilekit.batching.trial import Trial, prepared

    speaker.at("loading the model")
    plan, host, model, sample = prepared(request)
    trial = Trial(plan, model, host, sample, request.batch)
    trial.apply(speaker.at)
    speaker.at("running the sample")
    times, peak = trial.timed(SECONDS, MOST)
    return {"seconds": statistics.median(times), "peak": peak, "unit": trial.unit}


if __name__ == "__main__":
    main()
