"""`compilekit explain`: what the steps of a recipe really did."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer

from compilekit.cli.shared import (
    JsonOption,
    ModelArgument,
    PluginOption,
    RecipeArgument,
    StepsOption,
    quiet_libraries,
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
    quiet_libraries()
    from compilekit.api import explain
    from compilekit.plugin.host import load_host

    # With --json, what plugins and models print must not end up in the JSON.
    with contextlib.redirect_stdout(sys.stderr if json else sys.stdout):
        found = explain(
            recipe_of(recipe, steps), model, leave_out=leave_out, host=load_host(plugin or [])
        )
    sys.stdout.write(found.to_json() if json else f"{found}\n")
