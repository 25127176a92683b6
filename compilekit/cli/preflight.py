"""`compilekit preflight`: the checks of a step that compiles for hours, without the hours."""

from __future__ import annotations

from typing import Annotated

import typer

from compilekit.cli.shared import (
    ForceOption,
    JsonOption,
    ModelArgument,
    PluginOption,
    RecipeArgument,
    StepsOption,
    print_result,
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
    from compilekit.api import preflight
    from compilekit.plugin.host import load_host

    notes = preflight(
        recipe_of(recipe, steps),
        model,
        level=level or "",
        force=force,
        host=load_host(plugin or []),
    )
    print_result("nothing stands in the way", {"notes": notes}, json=json)
