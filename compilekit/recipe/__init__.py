"""Recipes: YAML files to checked models and back, with the place of everything that is wrong.

`Recipe.load` and `Recipe.parse` raise one `RecipeError` with every problem. Whoever has more
to check (the planner, say) takes `read` and `check`, adds its own problems, and raises.
"""

from __future__ import annotations

from compilekit.recipe.draft import Draft
from compilekit.recipe.library import read
from compilekit.recipe.parts import ModelSource, StepEntry, Target, TensorSpec, Tuned, Verify
from compilekit.recipe.recipe import Recipe, check
from compilekit.recipe.source import Document

__all__ = [
    "Document",
    "Draft",
    "ModelSource",
    "Recipe",
    "StepEntry",
    "Target",
    "TensorSpec",
    "Tuned",
    "Verify",
    "check",
    "read",
]
