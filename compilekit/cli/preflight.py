"""`compilekit preflight`: the checks of a step that compiles for hours, without the hours."""

from __future__ import annotations

from typing import Annotated

import typer

from compilekit.cli import options
from compilekit.cli.shared import host_of, print_result, recipe_of


def run(
    recipe: options.Recipe,
    model: options.Model = None,
    level: Annotated[
        str | None, typer.Option(help="The one check to run, `host` say; left out, all of them.")
    ] = None,
    steps: options.Steps = None,
    plugin: options.Plugins = None,
    *,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Check whether a build of a whole pipeline would go well: the machine, the model, the code.

    Exit code 1 when the model cannot be compiled, 3 when this machine will not do.
    """
    from compilekit.api import preflight

    notes = preflight(
        recipe_of(recipe, steps),
        model,
        level=level or "",
        force=force,
        host=host_of(plugin),
    )
    print_result("nothing stands in the way", {"notes": notes}, json=json)
