"""Asking for trials: processes that may crash, hang or take all memory, and what became of them."""

from __future__ import annotations

import contextlib
import pickle
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compilekit.errors import WorkerError, from_dict
from compilekit.studies.tune.data import Facts, Trial
from compilekit.studies.tune.order import Order
from compilekit.workers import Worker
from compilekit.workers.client import ending

WORKER = Path(__file__).with_name("worker")
LINES = 3
"""How many of the last lines of a process that died are shown."""

STARTING = 120.0
"""Seconds that a process may take to import torch."""


@dataclass
class Asker:
    """Runs orders one after the other, each in a process of its own.

    is_warm: whether that process may be a fork of one that has imported torch: not where a step
        prepares its process before that.
    """

    say: Callable[[str], None]
    is_warm: bool = True
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _worker: Worker | None = None
    _folder: Path = Path()

    def __enter__(self) -> Asker:  # noqa: PYI034 - Python 3.10 has no `Self`
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes."""
        self._stack.close()
        self._worker = None

    def facts(self, order: Order, limit: float) -> Facts:
        """The facts of the model; raises what loading or running it raises."""
        answer = self._ask(order, limit)
        if "error" in answer:
            raise from_dict(answer["error"])
        if "facts" not in answer:
            how = ending(answer.get("code"))
            raise WorkerError(f"the model does not run: its process {how}{self._last()}")
        return Facts.model_validate(answer["facts"])

    def trial(self, order: Order, limit: float) -> Trial:
        """What became of a trial, which may take so many seconds."""
        self._ready()  # that it does not start says nothing about the trial
        start = time.monotonic()
        try:
            answer = self._ask(order, limit)
        except WorkerError as error:
            self.__exit__()
            if error.timed_out:
                why = f"it gave no result within {limit:.0f} s, and was ended"
                return Trial(steps="", state="took too long", why=why, seconds=limit)
            lines = "; ".join(error.printed[-LINES:])
            answer = {"code": error.code, "last": f": {lines}" if lines else ""}
        if "trial" in answer:
            return Trial.model_validate(answer["trial"])
        why = f"its process {ending(answer.get('code'))}{answer.get('last', self._last())}"
        is_killed = answer.get("code") == -signal.SIGKILL
        return Trial(
            steps="",
            state="out of memory" if is_killed else "crashed",
            why=why,
            seconds=time.monotonic() - start,
        )

    def _ask(self, order: Order, limit: float | None) -> dict[str, Any]:
        worker = self._ready()
        worker.printed.clear()  # what earlier trials said explains nothing
        file = self._folder / "order.pickle"
        file.write_bytes(pickle.dumps(order))
        return worker.ask({"file": str(file)}, time_limit=limit)

    def _ready(self) -> Worker:
        if self._worker is None:
            self._stack = contextlib.ExitStack()
            self._worker = self._stack.enter_context(self._started())
        return self._worker

    @contextlib.contextmanager
    def _started(self) -> Iterator[Worker]:
        with tempfile.TemporaryDirectory(prefix="compilekit-tune-") as folder:
            self._folder = Path(folder)
            with Worker(
                WORKER,
                python=sys.executable,
                folder=folder,
                key="tune",
                say=self.say,
                # A file in the current folder must not shadow a module that the worker imports.
                environment={"PYTHONSAFEPATH": "1"},
            ) as worker:
                request = {"path": sys.path, "cwd": str(Path.cwd()), "ready": self.is_warm}
                worker.ask(request, time_limit=STARTING)
                yield worker

    def _last(self) -> str:
        lines = list(self._worker.printed)[-LINES:] if self._worker is not None else []
        return f": {'; '.join(lines)}" if lines else ""
