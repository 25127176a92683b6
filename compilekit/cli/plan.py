"""`compilekit plan`: check a recipe, and show what it would do."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from compilekit.cli import options
from compilekit.cli.shared import host_of, print_result, recipe_of


def run(
    recipe: options.Recipe,
    purpose: Annotated[
        Literal["apply", "build"], typer.Option("--for", help="What the plan is for.")
    ] = "apply",
    steps: options.Steps = None,
    plugin: options.Plugins = None,
    *,
    json: options.Json = False,
) -> None:
    """Check a recipe against the installed plugins. Loads no torch and no weights.

    Every mistake is reported, with file, line and column; exit code 2.
    """
    from compilekit.plan.plan import plan

    checked = plan(recipe_of(recipe, steps), host=host_of(plugin), for_=purpose)
    facts = {**checked.to_dict(), "digest": checked.digest, "warnings": checked.warnings}
    print_result(checked, facts, json=json)
