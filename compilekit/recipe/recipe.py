"""The public `Recipe`: read from files and text, changed, and written again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compilekit.base.words import Device
from compilekit.errors import Problem, RecipeError
from compilekit.recipe.draft import Draft, draft_of
from compilekit.recipe.emit import recipe_to_yaml
from compilekit.recipe.library import read
from compilekit.recipe.schema import RecipeData
from compilekit.recipe.source import Document, read_text
from compilekit.recipe.text import document_of_steps


class Recipe(RecipeData):
    """A checked recipe: what to make fast, on what, by which steps, and how close it must stay.

    >>> recipe = Recipe.from_steps("channels_last{components=[unet]}, torch_compile")
    >>> [step.plugin for step in recipe.steps]
    ['channels_last', 'torch_compile']
    """

    def draft(self) -> Draft[Recipe]:
        """The recipe as a draft with nothing wrong, for whoever checks it further."""
        document = self._document or Document("<recipe>", Path(), {}, {})
        return Draft(document, self.target.device, list(self.steps), self)

    def to_yaml(self) -> str:
        """The recipe as YAML that can be loaded again; what is default is left out."""
        return recipe_to_yaml(self)

    @classmethod
    def load(cls, source: str | Path) -> Recipe:
        """Load a recipe file, or a shipped recipe by its name."""
        return cls._checked(read(source))

    @classmethod
    def parse(cls, text: str, *, file: str = "<recipe>") -> Recipe:
        """Read a recipe from text; `file` names it in messages."""
        return cls._checked(read_text(text, file))

    @classmethod
    def from_steps(
        cls, steps: str, *, device: Device = "cpu", sample: Mapping[str, Any] | None = None
    ) -> Recipe:
        """Make a recipe from the compact text form: `qkv_fusion, torch_compile{mode=default}`."""
        return cls._checked(document_of_steps(steps, device, sample or {}))

    def with_steps(self, steps: str) -> Recipe:
        """The same recipe with other steps, in the compact text form.

        >>> Recipe.from_steps("qkv_fusion").with_steps("channels_last").steps[0].plugin
        'channels_last'
        """
        old = self._document or read_text(self.to_yaml())
        new = document_of_steps(steps, self.target.device, {})
        places = {path: place for path, place in old.places.items() if path[:1] != ("steps",)}
        places |= {path: place for path, place in new.places.items() if path[:1] == ("steps",)}
        data = {**old.data, "steps": new.data["steps"]}
        return self._checked(Document(old.file, old.folder, data, places))

    @classmethod
    def _checked(cls, document: Document) -> Recipe:
        draft, problems = check(document)
        if draft.recipe is None:
            raise RecipeError(problems)
        return draft.recipe


def check(document: Document) -> tuple[Draft[Recipe], list[Problem]]:
    """Check a document; steps that make sense are kept, so that a plan can check them too."""
    return draft_of(document, Recipe)
