"""`compilekit push`: upload a bundle to the Hub, after it was listed and agreed to."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from compilekit.base.bytesize import size
from compilekit.bundle.files import total
from compilekit.bundle.manifest import File
from compilekit.cli import options
from compilekit.cli.shared import echo, print_table
from compilekit.ship.push import push, uploads


def run(
    bundle: options.Bundle,
    repository: Annotated[
        str, typer.Argument(metavar="REPOSITORY", help="The model repository: user/name.")
    ],
    revision: Annotated[
        str | None, typer.Option(help="The branch; left out, the main one.")
    ] = None,
    *,
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository public, not private.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Upload without asking.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and list what would be uploaded, and end.")
    ] = False,
) -> None:
    """Upload a bundle to the Hub. What is uploaded is listed first, and asked for.

    The token is the one that `hf auth login` has stored, or `HF_TOKEN`.
    """

    def show(files: list[File]) -> None:
        print_table(["file", "size"], [(file.path, size(file.size)) for file in files])
        kind = "public" if public else "private"
        echo(f"{len(files)} files, {size(total(files))}, to {repository} ({kind} if new)")

    def confirm(files: list[File]) -> bool:
        show(files)
        if yes:
            return True
        if not sys.stdin.isatty():
            echo("say --yes to upload without being asked", err=True)
            return False
        return typer.confirm("Upload them?")

    if dry_run:
        show(uploads(bundle))
        echo("nothing was uploaded: this was a dry run")
        return
    address = push(bundle, repository, private=not public, revision=revision or "", confirm=confirm)
    echo(f"uploaded: {address}")
