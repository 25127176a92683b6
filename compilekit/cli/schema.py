"""`compilekit schema`: a JSON Schema of recipes, for editors."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from compilekit.cli.shared import PluginOption, print_json


def run(
    of: Annotated[
        Literal["recipe", "manifest"],
        typer.Option(help="A recipe, or the manifest of a bundle."),
    ] = "recipe",
    plugin: PluginOption = None,
) -> None:
    """Print a JSON Schema: of recipes, with the options of every installed plugin.

    Editors complete and check recipes with it: save it, and begin a recipe with the line
    `# yaml-language-server: $schema=recipe.schema.json`.
    """
    if of == "manifest":
        from compilekit.bundle.manifest import schema

        print_json(schema())
        return
    from compilekit.plugin.host import load_host
    from compilekit.recipe.json_schema import recipe_schema

    steps = load_host(plugin or []).descriptions
    options = {name: step.options for name, step in steps.items()}
    print_json(recipe_schema(options, {name: step.help for name, step in steps.items()}))
