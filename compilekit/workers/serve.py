"""The side that answers: runs requests in a process of its own, one after the other.

It ends once nobody can ask any more. It is started as a script, by an interpreter that need not
have compilekit, so it imports nothing but Python's own library, and stays within Python 3.10.
"""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import signal
import sys
import threading
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAME = "compilekit_worker"
FAULTS = "compilekit.workers.faults"
OLDEST = (3, 10)


def main() -> None:
    """Read requests, let the package answer them, and write what it says, line by line."""
    # Whatever libraries print goes to the errors; answers alone go where they are read.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def tell(event: str, **more: object) -> None:
        with lock:
            answers.write(json.dumps({"event": event, **more}) + "\n")
            answers.flush()

    def say(text: str, *, note: bool = False) -> None:
        tell("note" if note else "progress", text=text)

    if sys.version_info < OLDEST:
        version = ".".join(map(str, sys.version_info[:3]))
        tell("failed", kind="machine", text=f"{sys.executable} is Python {version}; 3.10 is needed")
        return
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    package = None
    while True:
        request = json.loads(requests.get())
        try:
            package = package or _package(sys.argv[1])
            answer = {"result": package.run(request, say)}
        except BaseException as error:  # noqa: BLE001 - whatever it is, the other side shows it
            tell("failed", **_described(error))
        else:
            tell("result", **answer)


def _described(error: BaseException) -> dict[str, object]:
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    kind = getattr(error, "worker_kind", "")
    text = str(error) if kind else f"{type(error).__name__}: {error}"
    # compilekit's own errors cross whole, with all that they carry.
    whole = error.to_dict() if hasattr(error, "to_dict") and not kind else None
    return {"kind": kind, "text": text, "traceback": trace, "error": whole}


def _package(folder: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """Import the worker's package by its folder, under a name that shadows nobody."""
    # This script's own folder comes first on the path. No module must be found in it.
    if sys.path and Path(sys.path[0]).resolve() == HERE:
        sys.path.pop(0)
    # Of the compilekit that asks: this interpreter has none, or perhaps an older one.
    _module(FAULTS, HERE / "faults.py")
    return _module(NAME, Path(folder) / "__init__.py", [folder])


def _module(name: str, path: Path, folders=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folders)
    assert spec and spec.loader  # noqa: S101, PT018 - a file has both
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _read(requests: queue.SimpleQueue[str]) -> None:
    """Take requests; end this process and what it started once nobody can ask any more."""
    for line in sys.stdin:
        requests.put(line)
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    main()
