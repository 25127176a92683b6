"""Arguments and output that several commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A recipe file, or the name of one (compilekit recipes)."
    ),
]
PluginOption = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE", help="Add a plugin from a file; may be repeated."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]


def print_json(value: Any) -> None:
    """Print a value as JSON, on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_table(columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a plain table. Lines are as long as they are: they stay whole in a pipe."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    for row in (tuple(columns), *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
