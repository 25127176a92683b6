"""`compilekit bisect`: which step of a recipe is at fault."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from compilekit.base.streams import ERR, behind
from compilekit.cli import options
from compilekit.cli.shared import host_of, print_result, recipe_of
from compilekit.errors import UsageError

IMAGES = "COMPILEKIT_IMAGES"


def run(
    recipe: options.Recipe,
    model: options.Model = None,
    check: Annotated[
        str | None,
        typer.Option(
            "--check",
            metavar="CMD",
            help="A command that exits with 0 if the pictures in the folder COMPILEKIT_IMAGES "
            "(0.png, 1.png, ...) are good. Left out, the recipe's budgets decide.",
        ),
    ] = None,
    steps: options.Steps = None,
    plugin: options.Plugins = None,
    *,
    json: options.Json = False,
) -> None:
    """Find the step that breaks a budget or a check, then its component, and its block.

    The model is loaded anew for each trial.
    """
    from compilekit.api import bisect

    judge = None if check is None else _command(check)
    blame = bisect(recipe_of(recipe, steps), model, check=judge, host=host_of(plugin))
    print_result(blame, asdict(blame), json=json)


def _command(text: str) -> Callable[[Any], bool]:
    words = shlex.split(text)
    if not words:
        raise UsageError("--check: the command is empty")

    def judge(output: Any) -> bool:
        from compilekit.measure.images import to_pil
        from compilekit.subject.sample import images_of

        pictures = images_of(output)
        if pictures is None:
            raise UsageError("--check looks at pictures, and the sample gives none")
        with tempfile.TemporaryDirectory() as folder:
            for number, picture in enumerate(to_pil(pictures)):
                picture.save(Path(folder) / f"{number}.png")
            try:
                done = subprocess.run(  # noqa: S603 - the user's own command
                    words,
                    env={**os.environ, IMAGES: folder},
                    stdout=behind(ERR),
                    stderr=behind(ERR),
                    check=False,
                )
            except OSError as error:
                raise UsageError(f"--check {words[0]}: {error.strerror}") from error
        return done.returncode == 0

    return judge
