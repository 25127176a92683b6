"""`compilekit preflight`: the checks of a step that compiles for hours, without the hours."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer

from compilekit.cli.shared import (
    ForceOption,
    JsonOption,
    ModelArgument,
    PluginOption,
    RecipeArgument,
    StepsOption,
    print_json,
    quiet_libraries,
    recipe_of,
)


def run(
    recipe: RecipeArgument,
    model: ModelArgument = None,
    level: Annotated[
        str | None, typer.Option(help="The one check to run, `host` say; left out, all of them.")
    ] = None,
    steps: StepsOption = None,
    plugin: PluginOption = None,
    *,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Check whether a build of a whole pipeline would go well: the machine, the model, the code.

    Exit code 1 when the model cannot be compiled, 3 when this machine will not do.
    """
    quiet_libraries()
    from compilekit.api import preflight
    from compilekit.plugin.host import load_host

    with contextlib.redirect_stdout(sys.stderr if json else sys.stdout):
        notes = preflight(
            recipe_of(recipe, steps),
            model,
            level=level or "",
            force=force,
            host=load_host(plugin or []),
        )
    if json:
        print_json({"notes": notes})
    else:
        typer.echo("nothing stands in the way")
