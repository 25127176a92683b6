"""The side that asks: starts a worker, shows what it says, and ends it, whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import IO, Any

from compilekit.base.streams import live
from compilekit.errors import MachineError, ModelError, StepError, WorkerError, from_dict

SERVE = Path(__file__).with_name("serve.py")
KEPT = 60
"""How many of the last lines that a worker printed are shown when it fails."""

PATIENCE = 5.0
"""Seconds between asking a worker to end and ending it."""

FAILURES = {"machine": MachineError, "model": ModelError, "step": StepError}


def run_worker(
    package: str | Path,
    request: Mapping[str, Any],
    *,
    python: str | Path,
    folder: str | Path,
    key: str = "worker",
    say: Callable[[str], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
    time_limit: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Let a worker's package answer a request in another process; gives its result.

    package: the folder of a Python package with `run(request, say)` in its `__init__.py`.
    python: the interpreter that runs it.
    folder: where it runs, and keeps its temporary files.
    key: what messages begin with: the step's key.
    say: is told what the worker is doing now; note: what is worth a line that stays.
    time_limit: seconds after which it is ended.
    environment: variables that it gets beside this process's own.

    Raises `WorkerError` where it crashes, hangs or talks nonsense, and what the worker itself
    calls a fault of the machine, of the model or of the step. Ended is the whole group of its
    processes, compilers included; also where this process is interrupted or killed.

    >>> import compilekit as ck
    >>> ck.run_worker("no-such-package", {}, python="no-such-python", folder=".")
    Traceback (most recent call last):
    compilekit.errors.MachineError: worker: no-such-python: cannot be run: No such file or directory
    """
    with Worker(
        package,
        python=python,
        folder=folder,
        key=key,
        say=say,
        note=note,
        environment=environment,
    ) as worker:
        return worker.ask(request, time_limit=time_limit)


@dataclass
class Worker:
    """A process that answers requests, one after the other, from `with` until its end.

    The arguments are those of `run_worker`. What the package keeps in its own variables is there
    for the next request. `printed` has the last lines that it wrote.
    """

    package: str | Path
    _: KW_ONLY
    python: str | Path
    folder: str | Path
    key: str = "worker"
    say: Callable[[str], None] = lambda _: None
    note: Callable[[str], None] = lambda _: None
    environment: Mapping[str, str] | None = None
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _threads: list[threading.Thread] = field(default_factory=list, init=False)
    printed: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT), init=False)
    _answers: queue.Queue[bytes | None] = field(default_factory=queue.Queue, init=False)

    def __enter__(self) -> Worker:  # noqa: PYI034 - Python 3.10 has no `Self`
        """Start the process."""
        temporary = {"TMPDIR": str(Path(self.folder).absolute())}
        try:
            process = subprocess.Popen(  # noqa: S603 - the interpreter that the user named
                [str(self.python), "-u", str(SERVE), str(self.package)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self.folder,
                env={**os.environ, **(self.environment or {}), **temporary},
                start_new_session=True,
            )
        except OSError as error:
            raise MachineError(
                f"{self.key}: {self.python}: cannot be run: {error.strerror}"
            ) from error
        self._process = process
        for target, pipe in ((self._read, process.stdout), (self._keep, process.stderr)):
            thread = threading.Thread(target=target, args=(pipe,), daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, and leave none of those that it started."""
        if self._process is not None:
            _end(self._process)

    def ask(self, request: Mapping[str, Any], *, time_limit: float | None = None) -> dict[str, Any]:
        """Send a request, and follow the answers to its result.

        Raises as `run_worker` does. After an error that the worker told, it can be asked again.
        """
        self._send(request)
        end = None if time_limit is None else time.monotonic() + time_limit
        while True:
            try:
                seconds = None if end is None else max(0.0, end - time.monotonic())
                line = self._answers.get(timeout=seconds)
            except queue.Empty:
                assert time_limit is not None  # noqa: S101 - else there is no timeout
                self.__exit__()  # what it answers too late would be taken for the next answer
                raise self._error(
                    f"gave no result within its time limit of {time_limit:g} s, and was ended",
                    timed_out=True,
                ) from None
            if line is None:
                self._answers.put(None)  # for whoever asks again
                self._threads[-1].join(PATIENCE)
                code = self._exit_code()
                raise self._error(ending(code), code=code)
            if (result := self._follow(line)) is not None:
                return result

    def _send(self, request: Mapping[str, Any]) -> None:
        assert self._process is not None, "ask a worker within its `with` block"  # noqa: S101
        assert self._process.stdin  # noqa: S101 - it is a pipe
        # The pipe stays open: its end tells the worker that nobody waits for it any more.
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(json.dumps(dict(request)).encode() + b"\n")
            self._process.stdin.flush()

    def _read(self, pipe: IO[bytes]) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in pipe:
                self._answers.put(line)
        self._answers.put(None)

    def _keep(self, pipe: IO[bytes]) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in pipe:
                if text := line.decode(errors="replace").rstrip():
                    self.printed.append(text)
                    if live():
                        sys.stderr.write(f"{text}\n")

    def _follow(self, line: bytes) -> dict[str, Any] | None:
        """One answer; gives the result, if it is that."""
        try:
            answer = json.loads(line)
            event = answer["event"]
        except (ValueError, TypeError, KeyError):
            shown = line[:200].decode(errors="replace").strip()
            raise self._error(f"answered {shown!r}, which is no answer of a worker") from None
        text = str(answer.get("text", ""))
        if event == "progress":
            self.say(text)
        elif event == "note":
            self.note(text)
        elif event == "failed" and answer.get("error"):
            raise from_dict(answer["error"])
        elif event == "failed":
            kind = FAILURES.get(str(answer.get("kind")))
            if kind is not None:
                raise kind(f"{self.key}: {text}")
            trace = str(answer.get("traceback", "")).rstrip()
            raise self._error(f"failed: {text}\n{trace}")
        elif event == "result" and isinstance(answer.get("result"), dict):
            return dict(answer["result"])
        else:
            raise self._error(f"answered with an event {event!r}, which is not known here")
        return None

    def _exit_code(self) -> int | None:
        assert self._process is not None  # noqa: S101 - it was asked
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return None

    def _error(self, what: str, *, code: int | None = None, timed_out: bool = False) -> WorkerError:
        lines = "\n".join(f"  {line}" for line in self.printed)
        last = f"\nIt printed last:\n{lines}" if lines else ""
        error = WorkerError(f"{self.key}: the worker ({self.python}) {what}{last}")
        error.code, error.timed_out, error.printed = code, timed_out, tuple(self.printed)
        return error


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave no process behind: neither the worker nor what it started."""
    for signal_, seconds in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, None)):
        # The group outlives its leader while a compiler runs.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal_)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    for pipe in (process.stdin, process.stdout, process.stderr):
        with contextlib.suppress(OSError):
            if pipe is not None:
                pipe.close()


def ending(code: int | None) -> str:
    """How a process ended, in words: `its process {ending(code)}`."""
    if code is None:
        return "closed its answers and went on"
    if code >= 0:
        return f"ended with exit code {code} and no result"
    name = signal.Signals(-code).name
    why = ": perhaps memory ran out" if name == "SIGKILL" else ""
    return f"was ended by {name}{why}"
