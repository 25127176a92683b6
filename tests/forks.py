"""Run scripts in forks of a process that has imported what takes seconds.

A script finds nothing of another one's, and its environment is its own; torch and the classes of
pipelines are imported already.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "FluxPipeline")


class Forks:
    """The process, which starts when it is needed first and ends with this one."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None
        self._said = Path()

    def run(
        self, arguments: list[str], folder: Path, environment: Mapping[str, str]
    ) -> tuple[str, str]:
        """What a script prints and complains of; the first argument is its path."""
        server = self._started(folder, environment)
        assert server.stdin is not None
        assert server.stdout is not None
        job = {"arguments": arguments, "folder": str(folder), "environment": dict(environment)}
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        if server.stdout.readline() != "done\n":
            raise RuntimeError(self._said.read_text(encoding="utf-8"))
        out, err = ((folder / name).read_text(encoding="utf-8") for name in ("out", "err"))
        return out, err

    def _started(self, folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
        if self._server is None:
            # What libraries say while they are imported is for nobody, unless that fails.
            self._said = folder / "imports"
            with self._said.open("w", encoding="utf-8") as errors:
                self._server = subprocess.Popen(
                    [sys.executable, __file__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env=dict(environment),
                )
            atexit.register(self._server.communicate)
        return self._server


def serve() -> None:
    """Fork for each line that comes in, and say when the script is over."""
    import diffusers

    for name in PIPELINES:
        getattr(diffusers, name)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(**json.loads(line))
        os.waitpid(child, 0)
        sys.stdout.write("done\n")
        sys.stdout.flush()


def run(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Become the script, which prints into files of its folder."""
    code = 1
    try:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.argv = arguments
        sys.path[0] = str(Path(arguments[0]).parent)
        runpy.run_path(arguments[0], run_name="__main__")
        code = 0
    except BaseException:  # noqa: BLE001 - the fork must end here
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
