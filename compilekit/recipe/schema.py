"""What a recipe may say, and the ways to read and write one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationInfo, field_validator

from compilekit.errors import Location
from compilekit.recipe.messages import shown
from compilekit.recipe.parts import ModelSource, Size, StepEntry, Target, Text, Verify, fault
from compilekit.recipe.source import Document

if TYPE_CHECKING:
    from compilekit.recipe.draft import Draft
    from compilekit.steps import Device

FORMAT = 1


class _Sample(BaseModel):
    model_config = ConfigDict(extra="allow")

    seed: int = Field(default=0, ge=0, lt=2**63)


class Recipe(BaseModel):
    """A checked recipe: what to make fast, on what, by which steps, and how close it must stay.

    >>> recipe = Recipe.from_steps("channels_last{components=[unet]}, torch_compile")
    >>> [step.plugin for step in recipe.steps]
    ['channels_last', 'torch_compile']
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    compilekit: Literal[1] = Field(description="The version of the recipe format.")
    name: Text = Field(default="recipe", description="Its name; the file's, if left out.")
    description: str = Field(default="", description="One line for people.")
    target: Target = Field(description="What the recipe is for.")
    model: ModelSource | None = Field(default=None, description="Where the model comes from.")
    sample: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of one real call, and a seed."
    )
    steps: tuple[StepEntry, ...] = Field(default=(), description="What to do, in order.")
    verify: Verify = Field(
        default=Verify(), description="How far the result may be from the original."
    )
    shapes: tuple[Annotated[dict[Text, Size], Field(min_length=1)], ...] = Field(
        default=(), description="The sizes that a bundle must cover."
    )
    _document: Document | None = PrivateAttr(default=None)

    @field_validator("compilekit", mode="before")
    @classmethod
    def _known_format(cls, value: Any) -> Any:
        if type(value) is not int or value != FORMAT:
            message = f"{shown(value)} is not a format that is known here; write {FORMAT}"
            raise ValueError(message)
        return value

    @field_validator("sample")
    @classmethod
    def _check_sample(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        _Sample.model_validate({"seed": value.get("seed", 0)}, strict=True)
        model = info.data.get("model")
        if model is not None and model.inputs:
            message = "a model with inputs takes no sample: remove one of the two"
            for key in value.keys() - {"seed"}:
                raise fault((key,), message, value[key])
        return value

    def __eq__(self, other: object) -> bool:
        """Where a recipe was written does not matter."""
        if not isinstance(other, Recipe):
            return NotImplemented
        return self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]

    @property
    def seed(self) -> int:
        """The seed of the sample."""
        seed: int = self.sample.get("seed", 0)
        return seed

    @property
    def sample_arguments(self) -> dict[str, Any]:
        """The sample's keyword arguments, without the seed."""
        return {key: value for key, value in self.sample.items() if key != "seed"}

    @property
    def folder(self) -> Path:
        """Where the files that the sample names are looked for."""
        return Path() if self._document is None else self._document.folder

    def location(self, *path: str | int) -> Location:
        """Where the recipe says something: `recipe.location("steps", 2)`."""
        if self._document is None:
            return Location("<recipe>")
        return self._document.locate(path)

    def draft(self) -> Draft:
        """The recipe as a draft with nothing wrong, for whoever checks it further."""
        from compilekit.recipe.draft import Draft

        document = self._document or Document("<recipe>", Path(), {}, {})
        return Draft(document, self.target.device, list(self.steps), self)

    def to_yaml(self) -> str:
        """The recipe as YAML that can be loaded again; what is default is left out."""
        from compilekit.recipe.emit import recipe_to_yaml

        return recipe_to_yaml(self)

    @classmethod
    def load(cls, source: str | Path) -> Recipe:
        """Load a recipe file, or a shipped recipe by its name."""
        from compilekit.recipe.library import read

        return cls._checked(read(source))

    @classmethod
    def parse(cls, text: str, *, file: str = "<recipe>") -> Recipe:
        """Read a recipe from text; `file` names it in messages."""
        from compilekit.recipe.source import read_text

        return cls._checked(read_text(text, file))

    @classmethod
    def from_steps(
        cls, steps: str, *, device: Device = "cpu", sample: Mapping[str, Any] | None = None
    ) -> Recipe:
        """Make a recipe from the compact text form: `qkv_fusion, torch_compile{mode=default}`."""
        from compilekit.recipe.text import document_of_steps

        return cls._checked(document_of_steps(steps, device, sample or {}))

    def with_steps(self, steps: str) -> Recipe:
        """The same recipe with other steps, in the compact text form.

        >>> Recipe.from_steps("qkv_fusion").with_steps("channels_last").steps[0].plugin
        'channels_last'
        """
        from compilekit.recipe.text import document_of_steps

        own = self._document or Recipe.parse(self.to_yaml())._document  # noqa: SLF001
        assert own is not None  # noqa: S101 - what is parsed has one
        other = document_of_steps(steps, self.target.device, {})
        places = {key: place for key, place in own.places.items() if key[:1] != ("steps",)}
        places |= {key: place for key, place in other.places.items() if key[:1] == ("steps",)}
        data = {**own.data, "steps": other.data["steps"]}
        return self._checked(Document(own.file, own.folder, data, places))

    @classmethod
    def _checked(cls, document: Document) -> Recipe:
        from compilekit.recipe.draft import checked

        return checked(document)
