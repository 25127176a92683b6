"""Asking a worker for one trial, and understanding how it ended."""

from __future__ import annotations

import pickle
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from compilekit.errors import CompilekitError, StepError, WorkerError
from compilekit.studies.batch.data import BatchTrial
from compilekit.studies.batch.limits import NO_MEMORY, in_short
from compilekit.studies.batch.request import Request
from compilekit.workers import run_worker

WORKER = Path(__file__).with_name("worker")
LINES = 5
"""How many of a dead worker's last lines are shown."""


def ask(
    request: Request, timeout: float | None, say: Callable[[str], None]
) -> tuple[BatchTrial, str]:
    """Run one trial; returns its result, and what a batch counts.

    Raises what the trial raised, unless memory ran out.
    """
    batch, stage = request.batch, "starting"

    def follow(message: str) -> None:
        nonlocal stage
        stage = message
        say(message)

    with tempfile.TemporaryDirectory(prefix="compilekit-batch-") as folder:
        file = Path(folder) / "request.pickle"
        file.write_bytes(pickle.dumps(request))
        try:
            answer = run_worker(
                WORKER,
                {"path": sys.path, "cwd": str(Path.cwd()), "file": str(file)},
                python=sys.executable,
                folder=folder,
                key=f"batch {batch}",
                say=follow,
                time_limit=timeout,
                # A file in the current folder must not shadow a module that the worker imports.
                environment={"PYTHONSAFEPATH": "1"},
            )
        except WorkerError as error:
            answer = {"why": _death(error, batch, stage, timeout)}
        except CompilekitError as error:
            if batch > 1:
                error.args = (f"batch {batch}: {error}",)
            raise
    if "why" in answer:
        return BatchTrial(batch, why=f"{stage}: {answer['why']}"), ""
    return BatchTrial(batch, answer["seconds"], answer["peak"]), answer["unit"]


def _death(error: WorkerError, batch: int, stage: str, timeout: float | None) -> str:
    """Why a worker died, if memory or time ran out; otherwise raises."""
    if error.timed_out:
        return f"it took longer than {timeout:g} s"
    if error.code == -signal.SIGKILL:
        return "the system killed it, which it does when memory runs out"
    for line in reversed(error.printed):
        if NO_MEMORY.search(line):
            return in_short(line)
    last = "".join(f"\n  {line}" for line in error.printed[-LINES:])
    raise StepError(
        f"batch {batch}: the trial died while {stage}: {_ending(error.code)}{last}"
    ) from error


def _ending(code: int | None) -> str:
    if code is None:
        return "it gave no result"
    return f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
