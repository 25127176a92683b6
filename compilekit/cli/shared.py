"""Arguments and output that several commands share."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compilekit.base.columns import aligned
from compilekit.errors import UsageError

if TYPE_CHECKING:
    from compilekit.recipe import Recipe

RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A recipe file, or the name of one (compilekit recipes)."
    ),
]
StepsOption = Annotated[
    str | None,
    typer.Option(
        "--steps",
        metavar="TEXT",
        help="Steps in place of the recipe's: 'channels_last, torch_compile{mode=default}'.",
    ),
]
PluginOption = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE", help="Add a plugin from a file; may be repeated."),
]
ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]", help="A model's folder or hub id; left out, the recipe's own."
    ),
]
KeyOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--key",
        metavar="FILE",
        help="A public key (PEM) that must have signed the bundle; of several, any. "
        "COMPILEKIT_TRUST names such keys for all commands.",
    ),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Go on where a check of the machine says it will not do.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]


def recipe_of(recipe: str, steps: str | None) -> Recipe | str:
    """The recipe that a command is about."""
    if steps is None:
        return recipe
    from compilekit.recipe import Recipe

    return Recipe.load(recipe).with_steps(steps)


def prepare_output(output: Path) -> None:
    """Find out now, and not after an hour, whether anything can be written there."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe = output / ".compilekit-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"--output {output}: cannot write there: {error.strerror}") from error


def quiet_libraries() -> None:
    """Keep what libraries say of themselves while they load out of a command's output."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


def print_json(value: Any) -> None:
    """Print a value as JSON, on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a plain table."""
    sys.stdout.writelines(f"{line}\n" for line in aligned([columns, *rows]))


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[str]], *, json: bool) -> None:
    """Print rows as a table, or as JSON with the columns as keys."""
    if json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, rows)
