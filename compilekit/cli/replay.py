"""`compilekit replay`: run the failing step of a reproducer again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compilekit.cli import options
from compilekit.cli.shared import echo


def run(
    repro: Annotated[
        Path, typer.Argument(metavar="REPRO", help="The folder that a failed run left.")
    ],
    model: options.Model = None,
) -> None:
    """Run the step that failed in an earlier run again, alone.

    Without MODEL, a model of the same configs with random weights is made. Exit code 0 when the
    step does not fail here, otherwise that of its error.
    """
    from compilekit.api import replay

    echo(replay(repro, model))
