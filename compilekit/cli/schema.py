"""`compilekit schema`: a JSON Schema of recipes, for editors."""

from __future__ import annotations

from compilekit.cli.shared import PluginOption, print_json


def run(plugin: PluginOption = None) -> None:
    """Print a JSON Schema of recipes, with the options of every installed plugin.

    Editors complete and check recipes with it: save it, and begin a recipe with the line
    `# yaml-language-server: $schema=recipe.schema.json`.
    """
    from compilekit.host import load_host
    from compilekit.recipe.json_schema import recipe_schema

    steps = load_host(plugin or []).descriptions
    options = {name: step.options for name, step in steps.items()}
    print_json(recipe_schema(options, {name: step.help for name, step in steps.items()}))
