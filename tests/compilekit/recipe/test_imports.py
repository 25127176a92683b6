"""`plan` must answer at once: reading a recipe loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from compilekit.recipe import Recipe
Recipe.from_steps("channels_last{components=[unet]}").to_yaml()
heavy = {"torch", "diffusers", "transformers", "numpy", "PIL", "rich", "typer"}
print(sorted(heavy & set(sys.modules)))
"""


def test_reading_a_recipe_loads_no_heavy_package() -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
