"""The parts of a recipe: target, model, verification, steps."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from compilekit.base.machine import Number
from compilekit.base.words import Device
from compilekit.recipe.messages import shown

COMPONENT = r"^[A-Za-z_][A-Za-z0-9_]*(\.([A-Za-z_][A-Za-z0-9_]*|[0-9]+))*$"

NAME = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$"
"""The name of a recipe: what `build` calls its folder by default."""

_INTEGERS = ("int64", "int32")


def fault(path: tuple[str | int, ...], message: str, value: Any) -> ValidationError:
    """An error at a place inside the value that a validator looks at."""
    custom = PydanticCustomError("recipe", "{message}", {"message": message})
    return ValidationError.from_exception_data(
        "recipe", [InitErrorDetails(type=custom, loc=path, input=value)]
    )


def _component(name: str) -> str:
    if not re.fullmatch(COMPONENT, name):
        raise ValueError(
            f'{shown(name)} is not a component: write "unet", '
            '"vae.decode" or "transformer.blocks.0"'
        )
    return name


def components_in(value: Any) -> list[str]:
    """Those names of a wrong `components:` that are right."""
    names = value if isinstance(value, list) else [value]
    right = (name for name in names if isinstance(name, str) and re.fullmatch(COMPONENT, name))
    return list(dict.fromkeys(right))


def _file_name(name: str) -> str:
    if not re.fullmatch(NAME, name):
        raise ValueError(
            f"{shown(name)} is no plain file name: write up to 100 letters (a to z), digits, "
            '".", "_" and "-", and no "." in front'
        )
    return name


Text = Annotated[str, Field(min_length=1)]
Name = Annotated[Text, AfterValidator(_file_name), Field(json_schema_extra={"pattern": NAME})]
Size = Annotated[int, Field(ge=1)]
Component = Annotated[
    str, AfterValidator(_component), Field(json_schema_extra={"pattern": COMPONENT})
]
Ratio = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Target(_Part):
    """What the recipe is for."""

    device: Device = Field(description="The kind of device that the model will run on.")


class TensorSpec(_Part):
    """One input of a plain module: random values of this shape."""

    shape: tuple[Size, ...] = Field(description="The size of each dimension.")
    dtype: Literal["float32", "bfloat16", "float16", "int64", "int32", "bool"] = Field(
        default="float32", description="The type of its values."
    )
    low: int | None = Field(default=None, description="The smallest value of an integer input.")
    high: int | None = Field(
        default=None, description="One above the largest value of an integer input."
    )

    @field_validator("low", "high")
    @classmethod
    def _range(cls, value: int | None, info: ValidationInfo) -> int | None:
        dtype, low = info.data.get("dtype"), info.data.get("low")
        if value is not None and dtype is not None and dtype not in _INTEGERS:
            raise ValueError(f"only an integer input has a range, and this one is {dtype}")
        if info.field_name == "high" and None not in (value, low) and value <= low:  # type: ignore[operator]
            raise ValueError(f"must be greater than low ({low}), not {value}")
        return value


class ModelSource(_Part):
    """Where the model comes from. All of it may be left out: the API can pass a model."""

    source: Text | None = Field(default=None, description="A hub id, or a folder.")
    revision: Text | None = Field(default=None, description="A branch, tag or commit of the hub.")
    variant: Text | None = Field(default=None, description='A variant of the weights, "fp16" say.')
    pipeline: Text | None = Field(default=None, description="The diffusers class to load it as.")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="The type to load the weights as."
    )
    components: dict[Component, Text] = Field(
        default_factory=dict, description="Components to replace, by hub id or folder."
    )
    inputs: dict[Text, TensorSpec] = Field(
        default_factory=dict, description="The inputs of a plain module, in place of a sample."
    )


class Verify(_Part):
    """How far the optimised model may be from the original."""

    max_relative_error: Ratio | None = Field(
        default=None, description="The relative L2 error that each entry point may have."
    )
    min_psnr: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="The least PSNR of the sample's image, in dB.",
    )
    min_ssim: float | None = Field(
        default=None, ge=0, le=1, description="The least SSIM of the sample's image."
    )
    min_speedup: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description=(
            "How many times faster than as loaded each entry point must be that the recipe "
            "compiles. By default 1 in a build, and 0, which allows any, elsewhere."
        ),
    )
    reference: Literal["float32", "as_loaded"] = Field(
        default="float32", description="What errors are measured against."
    )


class Tuned(_Part):
    """Where `tune` found a recipe to be the fastest. It changes nothing; a plan compares it."""

    cpu: str = Field(description="The name of the processor.")
    cores: int = Field(ge=1, description="How many of its cores could be used.")
    numbers: tuple[Number, ...] = Field(
        default=(), description="The numbers that it has instructions for, besides float32."
    )
    gpus: tuple[str, ...] = Field(default=(), description="The names of its GPUs.")
    speedup: Ratio = Field(default=1.0, description="How many times faster than as loaded it was.")
    versions: dict[str, str] = Field(
        default_factory=dict, description="The versions of the libraries there."
    )


class StepEntry(_Part):
    """One step as the recipe writes it; its plugin has yet to check the options."""

    plugin: Text
    components: tuple[Component, ...] = ()
    allow_no_match: bool = False
    budget: Ratio | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    index: int = 0

    @field_validator("components")
    @classmethod
    def _check_components(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for index, name in enumerate(names):
            if name in names[:index]:
                raise fault((index,), f'"{name}" is named twice', name)
        return names


RESERVED = ("components", "allow_no_match", "budget")
"""The keys of a step that are not its plugin's options."""
