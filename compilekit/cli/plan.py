"""`compilekit plan`: check a recipe, and show what it would do."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from compilekit.cli.shared import (
    JsonOption,
    PluginOption,
    RecipeArgument,
    StepsOption,
    print_result,
    recipe_of,
)


def run(
    recipe: RecipeArgument,
    purpose: Annotated[
        Literal["apply", "build"], typer.Option("--for", help="What the plan is for.")
    ] = "apply",
    steps: StepsOption = None,
    plugin: PluginOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """Check a recipe against the installed plugins. Loads no torch and no weights.

    Every mistake is reported, with file, line and column; exit code 2.
    """
    from compilekit.plan.plan import plan
    from compilekit.plugin.host import load_host

    checked = plan(recipe_of(recipe, steps), host=load_host(plugin or []), for_=purpose)
    print_result(checked, {**checked.to_dict(), "digest": checked.digest}, json=json)
