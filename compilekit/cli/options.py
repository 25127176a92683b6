"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe file, the name of one (compilekit recipes), or - for standard input.",
    ),
]
Steps = Annotated[
    str | None,
    typer.Option(
        "--steps",
        metavar="TEXT",
        help="Steps in place of the recipe's: 'channels_last, torch_compile{mode=default}'.",
    ),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE", help="Add a plugin from a file; may be repeated."),
]
Model = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]", help="A model's folder or hub id; left out, the recipe's own."
    ),
]
Keys = Annotated[
    list[Path] | None,
    typer.Option(
        "--key",
        metavar="FILE",
        help="A public key (PEM) that must have signed the bundle; of several, any. "
        "COMPILEKIT_TRUST names such keys for all commands.",
    ),
]


def output_folder(name: str | Path) -> Path:
    """The folder that an option names; a shell variable that is not set is no name."""
    if not str(name).strip() or str(name) == "-":
        raise typer.BadParameter(f'"{name}" is no folder: name one')
    return Path(name)


Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        parser=output_folder,
        help="Where images go, and the report.",
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Go on where a check of the machine says it will not do.")
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Exit code 3 if a step has advice about this machine.")
]
Timings = Annotated[
    bool, typer.Option("--timings", help="Show where the time and the memory of the run went.")
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        envvar="COMPILEKIT_VERBOSE",
        help="Show what other libraries and plugins write; left out, only if the command fails.",
    ),
]
Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]
