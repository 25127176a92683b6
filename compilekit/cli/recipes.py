"""`compilekit recipes`: the recipes that come with compilekit."""

from __future__ import annotations

from compilekit.base.columns import blocks
from compilekit.cli import options
from compilekit.cli.shared import echo, print_rows


def run(*, json: options.Json = False) -> None:
    """List the recipes that can be used by name, grouped by model family or vendor."""
    from compilekit.recipe import Recipe, library

    rows = []
    for name in library.names():
        # By its file: a file of the same name in this folder would win.
        recipe = Recipe.load(library.find(name) or name)
        steps = ", ".join(step.plugin for step in recipe.steps)
        rows.append((name, recipe.target.device, steps, recipe.description))
    if json:
        print_rows(["name", "target", "steps", "description"], rows, json=True)
        return
    found = blocks([(name, target, text) for name, target, _, text in rows], indent=2)
    titles, previous = library.families(), ""
    for (name, *_), lines in zip(rows, found, strict=True):
        family = library.family(name)
        if family != previous:
            gap = "\n" if previous else ""
            echo(f"{gap}{titles.get(family, family)}")
            previous = family
        echo("\n".join(lines))
