"""The command line: thin; one file a command. Errors are one message and an exit code.

0 good, 1 the run or the verification failed, 2 the recipe or the command line is wrong,
3 this machine cannot do it, 130 interrupted, 143 terminated or hung up.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from compilekit.base.environment import installed_version
from compilekit.base.interrupts import INTERRUPTED, raise_errors
from compilekit.cli import (
    apply,
    batch,
    bench,
    bisect,
    build,
    cache,
    diff,
    doctor,
    explain,
    inspect,
    options,
    plan,
    plugins,
    preflight,
    push,
    recipes,
    replay,
    run,
    schema,
    sign,
    tune,
    verify,
)
from compilekit.cli.guard import Group, common, guarded
from compilekit.cli.shared import complain, echo

app = typer.Typer(
    name="compilekit",
    cls=Group,
    help="Make diffusion and other torch models fast, by a recipe, and measure what it cost.",
    epilog="Start with: compilekit recipes; compilekit plan NAME; compilekit apply NAME MODEL",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(*, asked: bool) -> None:
    if asked:
        echo(f"compilekit {installed_version('compilekit')}")
        raise typer.Exit


@app.callback()
def _whole(
    *,
    context: typer.Context,
    verbose: options.Verbose = False,
    version: Annotated[  # noqa: ARG001 - its callback does it
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=lambda asked: _show_version(asked=asked),
            help="Show the version, and end.",
        ),
    ] = False,
) -> None:
    common(context=context, verbose=verbose)


COMMANDS = (
    plan,
    apply,
    build,
    tune,
    run,
    inspect,
    verify,
    diff,
    sign,
    push,
    explain,
    batch,
    bench,
    bisect,
    replay,
    preflight,
    plugins,
    recipes,
    schema,
    doctor,
)
for command in COMMANDS:
    app.command(name=command.__name__.rpartition(".")[2])(
        guarded(command.run, aloud=command is push)
    )

group = typer.Typer(help=cache.HELP, no_args_is_help=True)
for name, function in cache.COMMANDS.items():
    group.command(name=name)(guarded(function))
app.add_typer(group, name=cache.NAME)


def main() -> None:
    """Run the command line. A signal ends it with everything put away."""
    raise_errors()
    try:
        _open_streams()
        app()
    except KeyboardInterrupt:  # before a command has begun
        complain("interrupted")
        sys.exit(INTERRUPTED)
    finally:  # Ctrl-C ends what is left, without a traceback: everything is put away by now
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _open_streams() -> None:
    """Put a stream where one was closed, and let none fail at a character that it lacks."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 - until the end
            setattr(sys, name, stream)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
