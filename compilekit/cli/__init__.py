"""The command line: thin; one file a command. Errors are one message and an exit code.

0 good, 1 the run or the verification failed, 2 the recipe or the command line is wrong,
3 this machine cannot do it, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from inspect import signature
from typing import Any

import typer

from compilekit.base.streams import captured
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
    verify,
)
from compilekit.errors import CompilekitError, RecipeError, UsageError

INTERRUPTED, TERMINATED = 130, 143

app = typer.Typer(
    name="compilekit",
    help="Make diffusion and other torch models fast, by a recipe, and measure what it cost.",
    epilog="Start with: compilekit recipes; compilekit plan NAME; compilekit apply NAME MODEL",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _Terminated(KeyboardInterrupt):
    """SIGTERM came."""


@app.callback()
def _whole(*, context: typer.Context, verbose: options.Verbose = False) -> None:
    context.obj = verbose


def _guarded(function: Callable[..., None], *, aloud: bool = False) -> Callable[..., None]:
    """Show what compilekit raises on purpose, and Ctrl-C, in one message and no traceback.

    What libraries write is shown before it, or at once with `--verbose` and where it is `aloud`.
    """

    @functools.wraps(function)
    def call(*, context: typer.Context, verbose: bool, **arguments: Any) -> None:
        try:
            with captured(verbose=verbose or aloud or context.obj, is_failure=_is_failure):
                function(**arguments)
        except CompilekitError as error:
            typer.echo(f"compilekit: {error}", err=True)
            if error.repro is not None:
                typer.echo(f"to replay it: compilekit replay {error.repro}", err=True)
            raise typer.Exit(error.exit_code) from error
        except _Terminated as error:
            typer.echo("compilekit: terminated", err=True)
            raise typer.Exit(TERMINATED) from error
        except KeyboardInterrupt as error:
            typer.echo("compilekit: interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from error

    # The command has the option too, after its name.
    command, common = signature(function, eval_str=True), signature(_whole, eval_str=True)
    parameters = [*command.parameters.values(), *common.parameters.values()]
    call.__signature__ = command.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call


def _is_failure(error: BaseException) -> bool:
    """Whether what libraries wrote may explain it: not a mistake in the input, nor Ctrl-C."""
    expected = (UsageError, RecipeError, typer.Exit, typer.Abort)
    return not isinstance(error, expected) and type(error) is not KeyboardInterrupt


COMMANDS = (
    plan,
    apply,
    build,
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
        _guarded(command.run, aloud=command is push)
    )

group = typer.Typer(help=cache.HELP, no_args_is_help=True)
for name, function in cache.COMMANDS.items():
    group.command(name=name)(_guarded(function))
app.add_typer(group, name=cache.NAME)


def main() -> None:
    """Run the command line. SIGTERM ends it as Ctrl-C does, with everything put away."""
    owner = os.getpid()

    def terminate(*_: object) -> None:
        if os.getpid() != owner:  # a worker of a compiler, which inherited this
            os._exit(TERMINATED)
        raise _Terminated

    signal.signal(signal.SIGTERM, terminate)
    app()
