"""`compilekit explain`: what the steps of a recipe really did."""

from __future__ import annotations

from typing import Annotated

import typer

from compilekit.cli.shared import (
    JsonOption,
    ModelArgument,
    PluginOption,
    RecipeArgument,
    StepsOption,
    echo,
    recipe_of,
)


def run(
    recipe: RecipeArgument,
    model: ModelArgument = None,
    leave_out: Annotated[
        bool,
        typer.Option(
            "--leave-out",
            help="Run the recipe again without each step that a later one compiles: its time "
            "can be told only so.",
        ),
    ] = False,
    steps: StepsOption = None,
    plugin: PluginOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """Apply a recipe, and tell which steps gained, which did nothing, and which cost time.

    Shows graph breaks, recompiles and the shape that caused them, layers left alone and why, and
    what the sample calls that no step works on. Broken budgets are told, and stop nothing.
    """
    from compilekit.api import explain
    from compilekit.plugin.host import load_host

    found = explain(
        recipe_of(recipe, steps), model, leave_out=leave_out, host=load_host(plugin or [])
    )
    echo(found.to_json().rstrip() if json else found)
