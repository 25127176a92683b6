"""The worker of trials: each runs in a fork of this process, which has imported torch by then.

So a trial starts quickly, and whatever it does to its process ends with it. This process itself
computes nothing: the threads that torch computes with would not survive a fork.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import select
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

POLL = 0.2
"""Seconds between looks whether a trial's process has ended."""


def run(request: dict[str, Any], say: Any) -> dict[str, Any]:
    """Run the order that is pickled in a file; or get ready for orders."""
    if not request.get("file"):
        # Relative paths in recipes and options start from the folder of the command.
        os.chdir(request["cwd"])
        sys.path[:] = request["path"]
        if request["ready"]:
            say("loading torch")
            import diffusers  # noqa: F401

            import compilekit.studies.tune.trial  # noqa: F401
        return {}
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _child(request["file"], writing)
    os.close(writing)
    answer, code = _followed(child, reading, say)
    os.close(reading)
    _end_others()
    return answer or {"code": code}


def _followed(child: int, reading: int, say: Any) -> tuple[dict[str, Any], int]:
    """What a trial answers, and how its process ended.

    What that process started may hold its end of the pipe open, so its own end is looked for too.
    """
    rest, code = b"", None
    while True:
        if select.select([reading], [], [], POLL)[0]:
            chunk = os.read(reading, 1 << 16)
            *lines, rest = (rest + chunk).split(b"\n")
            for told in map(json.loads, lines):
                if "say" not in told:
                    return told, 0 if code is None else code
                say(told["say"])
            if chunk:
                continue
        if code is not None:
            return {}, code
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)


def _child(file: str, writing: int) -> None:
    """Run the order, tell what it gives, and end, whatever happens."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # requests come there
        with os.fdopen(writing, "w", encoding="utf-8") as answers:

            def tell(told: dict[str, Any]) -> None:
                answers.write(json.dumps(told) + "\n")
                answers.flush()

            tell(_answer(file, tell))
            code = 0
    except BaseException:  # noqa: BLE001 - this is a fork: nothing above may run twice
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _answer(file: str, tell: Any) -> dict[str, Any]:
    from compilekit.errors import CompilekitError
    from compilekit.studies.tune.trial import answer

    order = pickle.loads(Path(file).read_bytes())  # noqa: S301 - our own file
    try:
        return answer(order, lambda text: tell({"say": text}))
    except CompilekitError as error:
        return {"error": error.to_dict()}


def _end_others() -> None:
    """Leave no process that a trial started: it would take time from the next."""
    import psutil

    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(pid) == os.getpgid(0) and pid != os.getpid():
                os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
