"""`compilekit diff`: what two bundles have in common, and what not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compilekit.cli.shared import JsonOption, print_json, print_table


def run(
    first: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")],
    second: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Another one's.")],
    *,
    json: JsonOption = False,
) -> None:
    """Compare two bundles: recipe, versions and machine, weights, parts, sizes, numbers.

    Loads nothing of either. Exit code 0 whether they differ or not.
    """
    from compilekit.bundle.compare import compare
    from compilekit.bundle.manifest import Manifest

    rows = compare(Manifest.read(first), Manifest.read(second))
    if json:
        keys = ("what", "where", "first", "second")
        print_json([dict(zip(keys, row, strict=True)) for row in rows])
    elif rows:
        print_table(["what", "where", "first", "second"], rows)
    else:
        typer.echo("they are the same, up to times")
