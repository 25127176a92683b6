"""Work by another interpreter, for backends whose libraries this one need not have. Light."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import compilekit as ck


def python_of(named: str, variable: str) -> str:
    """The interpreter that the worker runs in: named by an option or a variable, or this one."""
    return named or os.environ.get(variable, "") or sys.executable


def is_other(python: str) -> bool:
    """Whether an interpreter has other packages than this one.

    Environments of one Python link to the same file, and one may have several names: it is asked.
    """
    if python == sys.executable:
        return False
    try:
        done = subprocess.run(  # noqa: S603 - the interpreter that the user named
            [python, "-c", "import sys; print(sys.prefix)"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return True
    return Path(done.stdout.strip()).resolve() != Path(sys.prefix).resolve()


def lacking(packages: str, variable: str, advice: str) -> str:
    """Say what this interpreter lacks, and name the one that has it or how to get it."""
    python = python_of("", variable)
    if is_other(python):
        advice = f"{variable} names {python}: load it with that interpreter"
    return f"{sys.executable} lacks {packages}: {advice}"


def row(name: str, value: str, advice: str) -> tuple[str, str, str, str]:
    """A row for `compilekit doctor`; the advice is for whoever lacks it."""
    return (name, "ok", value, "") if value else (name, "absent", "", advice)


def answer(
    worker: Path, request: dict[str, Any], python: str, context: ck.WholeContext, time_limit: int
) -> dict[str, Any]:
    """Let the worker do what a build asks for, and show how it goes."""
    return ck.run_worker(
        worker,
        request,
        python=python,
        folder=context.scratch,
        key=context.step.key,
        say=context.progress,
        note=context.note,
        time_limit=time_limit,
    )
