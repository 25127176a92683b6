"""`compilekit explain`: what the steps of a recipe really did."""

from __future__ import annotations

from typing import Annotated

import typer

from compilekit.cli import options
from compilekit.cli.shared import echo, echo_json, host_of, recipe_of


def run(
    recipe: options.Recipe,
    model: options.Model = None,
    leave_out: Annotated[
        bool,
        typer.Option(
            "--leave-out",
            help="Run the recipe again without each step that a later one compiles: its time "
            "can be told only so.",
        ),
    ] = False,
    steps: options.Steps = None,
    plugin: options.Plugins = None,
    *,
    strict: options.Strict = False,
    json: options.Json = False,
) -> None:
    """Apply a recipe, and tell which steps gained, which did nothing, and which cost time.

    Shows graph breaks, recompiles and the shape that caused them, layers left alone and why, and
    what the sample calls that no step works on. Broken budgets are told, and stop nothing.
    """
    from compilekit.api import explain

    explanation = explain(
        recipe_of(recipe, steps),
        model,
        leave_out=leave_out,
        host=host_of(plugin),
        strict=strict,
    )
    if json:
        echo_json(explanation.to_json())
    else:
        echo(explanation)
