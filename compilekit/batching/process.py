"""A trial as whoever asks for it sees it: a process that is started, listened to, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import IO, Any

from compilekit import errors
from compilekit.batching.child import Request
from compilekit.batching.data import BatchTrial
from compilekit.batching.limits import NO_MEMORY, in_short
from compilekit.errors import CompilekitError, StepError

COMMAND = [sys.executable, "-c", "from compilekit.batching.child import main; main()"]
KILLED = -signal.SIGKILL
LINES = 5


def tried(
    request: Request, timeout: float | None, say: Callable[[str], None]
) -> tuple[BatchTrial, str]:
    """Run one trial; gives what came of it, and what a batch is counted in.

    Raises what the trial raised, unless it is for want of memory.
    """
    batch, stage, answer = request.batch, "starting", {}
    with tempfile.TemporaryFile() as log, _started(log) as process:
        ended = threading.Event()
        clock = threading.Timer(timeout or 0, _end, [process, ended])
        if timeout is not None:
            clock.start()
        try:
            _ask(process, request)
            for message in _messages(process):
                stage = message.get("stage", stage)
                answer = message
                say(stage)
            code = process.wait()
        finally:
            clock.cancel()
        if ended.is_set():
            return BatchTrial(batch, why=f"{stage}: it took longer than {timeout:g} s"), ""
        log.seek(0)
        said = log.read().decode(errors="replace")
    if "seconds" in answer:
        return BatchTrial(batch, answer["seconds"], answer["peak"]), answer["unit"]
    if "why" in answer:
        return BatchTrial(batch, why=answer["why"]), ""
    if "error" in answer:
        raise _error(answer, batch)
    return BatchTrial(batch, why=f"{stage}: {_death(code, said, batch, stage)}"), ""


@contextlib.contextmanager
def _started(log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The process, in a group of its own: Ctrl-C is for whoever started it, who ends it."""
    pipe = subprocess.PIPE
    # A file beside us must not stand in for a module that it imports.
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    process = subprocess.Popen(  # noqa: S603 - our own code
        COMMAND, stdin=pipe, stdout=pipe, stderr=log, env=environment, start_new_session=True
    )
    try:
        yield process
    finally:
        _end(process)
        for stream in filter(None, (process.stdin, process.stdout)):
            with contextlib.suppress(OSError):  # it did not read all that was sent
                stream.close()
        process.wait()


def _end(process: subprocess.Popen[bytes], ended: threading.Event | None = None) -> None:
    if ended is not None:
        ended.set()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _ask(process: subprocess.Popen[bytes], request: Request) -> None:
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    with contextlib.suppress(BrokenPipeError):  # it says itself why it is gone
        process.stdin.write(pickle.dumps(sys.path) + pickle.dumps(request))
        process.stdin.flush()


def _messages(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    for line in process.stdout:
        with contextlib.suppress(ValueError):  # cut off when it was killed
            yield json.loads(line)


def _error(answer: dict[str, Any], batch: int) -> CompilekitError:
    """The trial's own error; that of a later batch says of which."""
    kind = getattr(errors, answer["error"], CompilekitError)
    message = answer["message"]
    # Not all of them are made from a message alone.
    error: CompilekitError = kind.__new__(kind)
    Exception.__init__(error, f"batch {batch}: {message}" if batch > 1 else message)
    return error


def _death(code: int, said: str, batch: int, stage: str) -> str:
    """What a process died of, if it is for want of memory; else raises."""
    if code == KILLED:
        return "the system killed it, which it does when memory runs out"
    lines = [line for line in said.splitlines() if line.strip()]
    told = next((line.strip() for line in reversed(lines) if NO_MEMORY.search(line)), "")
    if told:
        return in_short(told)
    how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
    last = "".join(f"\n  {line}" for line in lines[-LINES:])
    raise StepError(f"batch {batch}: the trial died of {how} while {stage}{last}")
