"""What several commands do: get the recipe and the plugins, and print."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from compilekit.base.columns import aligned
from compilekit.base.staging import missing_parents, remove_empty
from compilekit.base.streams import ERR, OUT, own
from compilekit.base.texts import printable
from compilekit.errors import UsageError
from compilekit.plugin.host import Host, load_host
from compilekit.recipe import Recipe

KEPT = "\n\t"


def recipe_of(recipe: str, steps: str | None) -> Recipe | str:
    """The recipe that a command is about."""
    return recipe if steps is None else Recipe.load(recipe).with_steps(steps)


def host_of(files: Sequence[Path] | None) -> Host:
    """The installed plugins, and those from files."""
    return load_host(files or ())


@contextlib.contextmanager
def prepared(output: Path) -> Iterator[None]:
    """Find out now, and not after an hour, whether anything can be written there.

    Folders that were made for it are removed again if nothing is.
    """
    made: list[Path] = []
    try:
        made = [] if output.exists() else [output, *missing_parents(output)]
        output.mkdir(parents=True, exist_ok=True)
        probe = output / ".compilekit-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        remove_empty(made)
        raise UsageError(f"--output {output}: cannot write there: {error.strerror}") from error
    try:
        yield
    finally:
        remove_empty(made)


@contextlib.contextmanager
def writable(file: Path) -> Iterator[None]:
    """Find out now, and not after an hour, whether a file can be written there."""
    if file.is_dir():
        raise UsageError(f"--output {file}: is a folder: name a file")
    with prepared(file.absolute().parent):
        yield


def echo(text: object, *, err: bool = False) -> None:
    """Print a line of the command's own, whatever becomes of those of libraries."""
    typer.echo(printable(str(text), KEPT), file=own(ERR if err else OUT), err=err)


def complain(error: object, *, title: str = "compilekit") -> None:
    """Say what went wrong. Where nobody can read it, the exit code says it."""
    with contextlib.suppress(OSError):
        echo(f"{title}: {error}", err=True)


def print_json(value: Any) -> None:
    """Print a value as JSON, on standard output."""
    echo_json(json.dumps(value, indent=2, ensure_ascii=False))


def echo_json(text: str) -> None:
    """Print JSON; what a terminal or the encoding of the stream does not take is escaped."""
    encoding = str(getattr(own(OUT) or sys.stdout, "encoding", None) or "utf-8")
    is_unicode = encoding.lower().replace("-", "").startswith("utf")
    safe = (
        c if c == "\n" or (c.isprintable() and (is_unicode or c.isascii())) else json.dumps(c)[1:-1]
        for c in text.rstrip()
    )
    echo("".join(safe))


def print_result(text: object, value: Any, *, json: bool) -> None:
    """Print the result of a command, as text or as JSON."""
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
