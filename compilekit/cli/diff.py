"""`compilekit diff`: what two bundles have in common, and what not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compilekit.cli import options
from compilekit.cli.shared import echo, print_rows


def run(
    first: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")],
    second: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Another one's.")],
    *,
    json: options.Json = False,
) -> None:
    """Compare two bundles: recipe, versions and machine, weights, parts, sizes, numbers.

    Loads nothing of either. Exit code 0 whether they differ or not.
    """
    from compilekit.bundle.compare import compare
    from compilekit.bundle.manifest import Manifest

    rows = compare(Manifest.read(first), Manifest.read(second))
    if json or rows:
        print_rows(["what", "where", "first", "second"], rows, json=json)
    else:
        echo("they are the same, up to times")
