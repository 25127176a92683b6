"""Arguments and output that several commands share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compilekit.base.columns import aligned
from compilekit.base.streams import ERR, OUT, own
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
VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose",
        envvar="COMPILEKIT_VERBOSE",
        help="Show what other libraries and plugins write; left out, only if the command fails.",
    ),
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


def echo(text: object, *, err: bool = False) -> None:
    """Print a line of the command's own, whatever becomes of those of libraries."""
    typer.echo(text, file=own(ERR if err else OUT), err=err)


def print_json(value: Any) -> None:
    """Print a value as JSON, on standard output."""
    echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_result(text: object, value: Any, *, json: bool) -> None:
    """Print what a command found, as text or as JSON."""
    if json:
        print_json(value)
    else:
        echo(text)


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[str]], *, json: bool) -> None:
    """Print rows as a table, or as JSON with the columns as keys."""
    if json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, rows)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a plain table."""
    echo("\n".join(aligned([columns, *rows])))
