"""The contents of a manifest: its rows, and which values each may have. Light: no torch.

A manifest comes from outside, so unknown keys are errors, and every path stays inside the bundle.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, field_validator

from compilekit.base.words import Device
from compilekit.bundle.signature import DType, Signature

FORMAT = 1
NAME = "manifest.json"
LONGEST = 1024
_PART = re.compile(r"[A-Za-z0-9_@+=,-][A-Za-z0-9_@+=,. -]*")


def _inside(path: str) -> str:
    """Refuse a path that could leave the bundle, on any system."""
    names = path.split("/")
    if len(path) > LONGEST or not all(
        _PART.fullmatch(n) and not n.endswith((".", " ")) for n in names
    ):
        raise ValueError(f"{path!r} is no plain path inside the bundle")
    return path


Inside = Annotated[str, AfterValidator(_inside)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Dotted = Annotated[str, Field(pattern=r"^[^./\\\s]+(\.[^./\\\s]+)*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]


class Data(BaseModel):
    """Base class of the manifest's rows: unknown keys are errors; values are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, ser_json_inf_nan="strings")


class File(Data):
    """A file of the bundle; the manifest does not list itself."""

    path: Inside
    size: Count
    sha256: Sha256


class Tensor(Data):
    """A parameter, buffer or plain tensor of a component, in its final form.

    A tensor of the kind "extra" does not belong to the module: it was made while compiling.

    key: its name in the constants file; None if it is not stored, because compiled code holds
        its values.
    order: its dimensions from the outermost to the innermost in memory.
    inner: the tensors that a quantised one consists of.
    """

    name: Dotted
    kind: Literal["parameter", "buffer", "attribute", "inner", "extra"]
    dtype: DType
    shape: tuple[Count, ...]
    order: tuple[Count, ...] = ()
    key: str | None = None
    inner: tuple[str, ...] = ()
    persistent: bool = True


class Component(Data):
    """A component that is a module.

    library, class_name: where its Python class comes from; "" if the class is not needed,
        because all of the module is compiled.
    whole: whether compiled code serves all of its entry points.
    constants: the file with its tensors.
    """

    name: Name
    library: Literal[""] | Dotted
    class_name: Name
    whole: bool
    constants: Inside | None
    tensors: tuple[Tensor, ...]


class Output(Data):
    """How a result is rebuilt from the tensors that compiled code returns."""

    kind: Literal["tensor", "value", "tuple", "list", "dict", "object"]
    index: Count = 0
    value: bool | int | float | str | None = None
    keys: tuple[str, ...] = ()
    items: tuple[Output, ...] = ()
    class_name: str = ""


class Part(Data):
    """One part: what a plugin compiled for one signature.

    step: the position of its step in `steps`.
    constants: the tensors that it reads: "tensor:NAME" of the entry point's module, or
        "extra:NAME" of the component.
    output, as_tuple: its result with `return_dict=True` and `False`; None if there is none.
    none_is_dict: whether `return_dict=None` means True.
    """

    folder: Inside
    step: Count
    signature: Signature
    output: Output | None
    as_tuple: Output | None = None
    none_is_dict: bool = True
    constants: dict[str, str] = {}
    details: dict[str, JsonValue] = {}


class Parameter(Data):
    """A parameter of an entry point's Python function.

    plain: whether it has a default that the manifest can hold.
    """

    name: str
    required: bool
    plain: bool
    default: bool | int | float | str | None = None


class Entry(Data):
    """A compiled entry point, and its parts, one for each signature."""

    name: Dotted
    component: Name
    owner: Dotted
    method: Name
    parameters: tuple[Parameter, ...]
    takes_any: bool
    parts: Annotated[tuple[Inside, ...], Field(min_length=1)]

    def tensor(self, source: str) -> str:
        """The name in the component of a constant that a part reads."""
        kind, _, name = source.partition(":")
        prefix = self.owner.removeprefix(self.component).lstrip(".")
        return f"{prefix}.{name}" if prefix and kind == "tensor" else name


class Step(Data):
    """A step of the recipe; `again` says when it runs again on a loaded bundle."""

    name: str
    plugin: str
    components: tuple[str, ...]
    options: dict[str, JsonValue]
    again: Literal["never", "structure", "runtime"]
    remembered: dict[str, JsonValue] = {}


class Whole(Data):
    """A whole pipeline that one step compiled. Its files lie at the top of the bundle.

    step: the position of its step in `steps`.
    reference: whether the replay's file holds the sample's images from the uncompiled pipeline.
    error: how far the compiled pipeline's images are from them; None if it could not run.
    """

    step: Count
    details: dict[str, JsonValue] = {}
    reference: bool = False
    error: float | None = None


class Replay(Data):
    """A recorded call, and its error against the reference.

    arguments: a list of the positional arguments and a dict of the others; their tensors and
        the reference's are in the replay's file, as `NUMBER.in.INDEX` and `NUMBER.out.INDEX`.
    seed: of the process's random numbers during the call.
    """

    entry: str
    seed: Count
    arguments: Output
    outputs: Count
    error: float


class Contents(Data):
    """Everything that a bundle says of itself; `Manifest` is the same, read and checked."""

    compilekit_bundle: Literal[1] = Field(description="The version of the format.")
    compilekit: str = Field(description="The version of compilekit that built it.")
    name: str
    device: Device
    digest: Sha256 = Field(description="Of the recipe's canonical form.")
    recipe: dict[str, JsonValue] = Field(description="The recipe's canonical form.")
    sample: dict[str, JsonValue] = Field(description="The sample; pictures are files beside it.")
    kind: Literal["pipeline", "module"]
    class_name: Name
    components: tuple[Component, ...]
    entries: tuple[Entry, ...]
    parts: tuple[Part, ...]
    steps: tuple[Step, ...]
    plugins: dict[str, str] = Field(description="The distribution and version of each plugin.")
    fingerprint: dict[str, str] = Field(description="The machine that it was built on.")
    report: dict[str, JsonValue] = Field(description="What was measured while it was built.")
    replay: tuple[Replay, ...] = ()
    whole: Whole | None = Field(default=None, description="The pipeline, if compiled at once.")
    files: tuple[File, ...]
    own_digest: Literal[""] | Sha256 = Field(
        default="", description="Of this file, with nothing between these quotes."
    )

    @field_validator("compilekit_bundle", mode="before")
    @classmethod
    def _known_format(cls, value: Any) -> Any:
        # True is equal to 1, and so is 1.0.
        if type(value) is not int or value != FORMAT:
            raise ValueError(f"{value!r} is not {FORMAT}")
        return value

    def compiled_by(self) -> set[str]:
        """The steps whose compiled code is in it."""
        positions = {part.step for part in self.parts}
        positions |= {self.whole.step} if self.whole else set()
        return {self.steps[position].name for position in positions}

    def part(self, folder: str) -> Part:
        """The part in a folder."""
        return next(part for part in self.parts if part.folder == folder)

    def component(self, name: str) -> Component:
        """A component by name."""
        return next(component for component in self.components if component.name == name)
