"""What stands around every command: whatever goes wrong is one message and an exit code."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import sys
from collections.abc import Callable
from inspect import signature
from typing import Any

import typer
from typer.core import TyperGroup

from compilekit.base.interrupts import INTERRUPTED, TERMINATED, TerminatedError
from compilekit.base.streams import captured
from compilekit.cli import options
from compilekit.cli.shared import complain
from compilekit.errors import CompilekitError, RecipeError, UsageError
from compilekit.recipe.messages import shown

FAILED, WRONG = 1, 2


def common(*, context: typer.Context, verbose: options.Verbose = False) -> None:
    """The option that stands before and after the name of a command."""
    context.obj = verbose


def guarded(function: Callable[..., None], *, aloud: bool = False) -> Callable[..., None]:
    """A command that shows what compilekit raises on purpose, and Ctrl-C, in one message.

    What libraries write is shown before it, or at once with `--verbose` and where it is `aloud`.
    """

    @functools.wraps(function)
    def call(*, context: typer.Context, verbose: bool, **arguments: Any) -> None:
        try:
            with captured(verbose=verbose or aloud or context.obj, is_failure=_is_failure):
                function(**arguments)
        except CompilekitError as error:
            complain(error)
            if error.repro is not None:
                complain(f"compilekit replay {error.repro}", title="to replay it")
            raise typer.Exit(error.exit_code) from error
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            complain(f"{shown(str(error.filename))}: the name is too long for a file")
            raise typer.Exit(WRONG) from error

    command, shared = signature(function, eval_str=True), signature(common, eval_str=True)
    parameters = [*command.parameters.values(), *shared.parameters.values()]
    call.__signature__ = command.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call


def _is_failure(error: BaseException) -> bool:
    """Whether what libraries wrote may explain it: not a mistake in the input, nor Ctrl-C."""
    expected = (UsageError, RecipeError, typer.Exit, typer.Abort)
    return not isinstance(error, expected) and type(error) is not KeyboardInterrupt


class Group(TyperGroup):
    """The commands; what goes wrong before and after one of them runs is one message too."""

    def main(self, *arguments: Any, standalone_mode: bool = True, **more: Any) -> Any:
        """Run a command, and leave with its exit code."""
        run = functools.partial(super().main, *arguments, **{**more, "standalone_mode": False})
        return sys.exit(_code(run)) if standalone_mode else run()

    def invoke(self, ctx: Any) -> Any:
        """Run a command; click would hide which signal has ended it."""
        try:
            return super().invoke(ctx)
        except TerminatedError as error:
            complain("terminated")
            raise typer.Exit(TERMINATED) from error
        except KeyboardInterrupt as error:
            complain("interrupted")
            raise typer.Exit(INTERRUPTED) from error


def _code(run: Callable[[], int | None]) -> int:
    try:
        code = run() or 0
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        complain("interrupted")
        return INTERRUPTED
    except OSError as error:
        if error.filename is not None or error.errno not in LOST:
            raise
        if error.errno != errno.EPIPE:
            complain(f"the output cannot be written: {error.strerror}")
        _give_up(sys.stdout)
        return FAILED
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        if message := error.format_message():  # no message: help was shown
            said = message.replace(": Value error, ", ": ").rstrip(".")
            complain(f"{said}. {_advice(error)}")
        return WRONG
    return code


LOST = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""What writing to standard output may fail with."""


def _advice(error: Any) -> str:
    path = getattr(getattr(error, "ctx", None), "command_path", "compilekit")
    return f"`{path} --help` explains it."


def _give_up(stream: Any) -> None:
    """Have what a stream still holds go nowhere: the interpreter would complain at its end."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
