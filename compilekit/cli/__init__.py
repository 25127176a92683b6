"""The command line: thin; one file a command. Errors are one message and an exit code.

0 good, 1 the run or the verification failed, 2 the recipe or the command line is wrong,
3 this machine cannot do it.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

from compilekit.cli import apply, doctor, plan, plugins, recipes, schema
from compilekit.errors import CompilekitError

INTERRUPTED = 130
CLOSED_PIPE = 141

app = typer.Typer(
    name="compilekit",
    help="Make diffusion and other torch models fast, by a recipe, and measure what it cost.",
    epilog="Start with: compilekit recipes; compilekit plan NAME; compilekit apply NAME MODEL",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (plan, apply, plugins, recipes, schema, doctor):
    app.command(name=command.__name__.rpartition(".")[2])(command.run)


def main() -> NoReturn:
    """Run the command line; what compilekit raises on purpose is shown without a traceback."""
    try:
        app()
    except CompilekitError as error:
        print(f"compilekit: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("compilekit: interrupted; nothing was saved", file=sys.stderr)  # noqa: T201
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader went away (`| head`); Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(CLOSED_PIPE)
    sys.exit(0)
