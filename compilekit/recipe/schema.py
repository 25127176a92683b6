"""What a recipe may say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationInfo, field_validator

from compilekit.errors import Location
from compilekit.recipe.messages import shown
from compilekit.recipe.parts import (
    ModelSource,
    Name,
    Size,
    StepEntry,
    Target,
    Text,
    Tuned,
    Verify,
    fault,
)
from compilekit.recipe.source import Document

FORMAT = 1
R = TypeVar("R", bound="RecipeData")


class _Sample(BaseModel):
    seed: int = Field(ge=0, lt=2**63)


class RecipeData(BaseModel):
    """What a recipe says; `Recipe` is the same with ways to read and write it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    compilekit: Literal[1] = Field(description="The version of the recipe format.")
    name: Name = Field(default="recipe", description="Its name; the file's, if left out.")
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
    tuned: Tuned | None = Field(
        default=None, description="Where `tune` found it to be the fastest."
    )
    _document: Document | None = PrivateAttr(default=None)

    @field_validator("compilekit", mode="before")
    @classmethod
    def _known_format(cls, value: Any) -> Any:
        if type(value) is not int or value != FORMAT:
            raise ValueError(f"{shown(value)} is not a format that is known here; write {FORMAT}")
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
        if not isinstance(other, RecipeData):
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
        return self._document.folder if self._document else Path()

    def location(self, *path: str | int) -> Location:
        """Where the recipe says something: `recipe.location("steps", 2)`."""
        return self._document.locate(path) if self._document else Location("<recipe>")

    def placed(self: R, document: Document, steps: Sequence[StepEntry]) -> R:  # noqa: PYI019
        """The recipe with its steps, and where each value was written."""
        self._document = document
        return self.model_copy(update={"steps": tuple(steps)})
