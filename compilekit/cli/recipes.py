"""`compilekit recipes`: the recipes that come with compilekit."""

from __future__ import annotations

from compilekit.cli.shared import JsonOption, print_rows


def run(*, json: JsonOption = False) -> None:
    """List the recipes that can be used by name."""
    from compilekit.recipe import Recipe, library

    rows = []
    for name in library.names():
        recipe = Recipe.load(name)
        steps = ", ".join(step.plugin for step in recipe.steps)
        rows.append((name, recipe.target.device, steps, recipe.description))
    print_rows(["name", "target", "steps", "description"], rows, json=json)
