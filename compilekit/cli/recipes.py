"""`compilekit recipes`: the recipes that come with compilekit."""

from __future__ import annotations

import sys
from itertools import groupby

from compilekit.cli.shared import JsonOption, print_json

FAMILIES = {
    "any": "Any pipeline",
    "flux": "FLUX.1",
    "gaudi": "Intel Gaudi",
    "neuron": "AWS Inferentia2 and Trainium",
    "sd": "Stable Diffusion 1 and 2",
    "sd3": "Stable Diffusion 3",
    "sdxl": "Stable Diffusion XL",
}


def run(*, json: JsonOption = False) -> None:
    """List the recipes that come with compilekit. Use them by name."""
    from compilekit.recipe import Recipe, library

    rows = []
    for name in library.names():
        # By its file: a file of the same name in this folder would win.
        recipe = Recipe.load(library.find(name) or name)
        steps = ", ".join(step.plugin for step in recipe.steps)
        rows.append(
            {
                "name": name,
                "target": recipe.target.device,
                "steps": steps,
                "description": recipe.description,
            }
        )
    if json:
        print_json(rows)
    else:
        sys.stdout.write(_groups(rows))


def _groups(rows: list[dict[str, str]]) -> str:
    """The recipes of each family below its heading, one line each."""
    from compilekit.recipe import library

    name_width, target_width = (
        max((len(row[key]) for row in rows), default=0) for key in ("name", "target")
    )
    groups = []
    for family, members in groupby(rows, lambda row: library.family(row["name"])):
        lines = [FAMILIES.get(family, family)]
        for row in members:
            name, target = row["name"].ljust(name_width), row["target"].ljust(target_width)
            lines.append(f"  {name}  {target}  {row['description']}".rstrip())
        groups.append("\n".join(lines))
    return "\n\n".join(groups) + "\n"
