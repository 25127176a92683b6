"""`compilekit schema`: a JSON Schema of recipes, for editors."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from compilekit.cli import options
from compilekit.cli.shared import host_of, print_json


def run(
    of: Annotated[
        Literal["recipe", "manifest"],
        typer.Option(help="A recipe, or the manifest of a bundle."),
    ] = "recipe",
    plugin: options.Plugins = None,
) -> None:
    """Print a JSON Schema: of recipes, with the options of every installed plugin.

    Editors complete and check recipes with it: save it, and begin a recipe with the line
    `# yaml-language-server: $schema=recipe.schema.json`.
    """
    if of == "manifest":
        from compilekit.bundle.manifest import schema

        print_json(schema())
        return
    from compilekit.recipe.json_schema import recipe_schema

    steps = host_of(plugin).descriptions
    models = {name: step.options for name, step in steps.items()}
    print_json(recipe_schema(models, {name: step.help for name, step in steps.items()}))
