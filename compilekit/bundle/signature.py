"""Signatures: which calls of an entry point a part serves. Light: no torch.

A call is flattened to leaves with dotted paths (`added_cond_kwargs.text_embeds`). A leaf is a
tensor, a constant that must be equal, or something that is ignored (a random generator).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from compilekit.base.words import Device, Range, Size

DType = Literal[
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "complex64",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
    "bool",
]
"""The dtypes that a bundle can hold, as torch names them."""

Scalar = bool | int | float | str | None
RETURN_DICT = "return_dict"
"""Compiled code serves both values of this argument; only rebuilding the result differs."""

INTEGERS = ("int64", "int32", "int16", "int8", "uint8")
WIDENED = {
    "float64": ("float32", "bfloat16", "float16", *INTEGERS),
    # Timesteps in float64 are rounded to float32 by every model that takes them.
    "float32": ("float64", "bfloat16", "float16", *INTEGERS),
    "int64": ("int32", "int16", "int8", "uint8"),
    "int32": ("int16", "int8", "uint8"),
}
"""The dtypes that a small tensor is cast from, for each compiled dtype, without loss."""

SMALL = 2
"""Tensors of fewer dimensions (timesteps) are cast to what was compiled: schedulers differ."""


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TensorArgument(_Data):
    """A tensor of the call: its path, dtype, shape, place, and order of dimensions in memory."""

    path: str
    dtype: DType
    shape: tuple[Size | Range, ...]
    order: tuple[Size, ...]
    device: Device

    @model_validator(mode="after")
    def _orders_all(self) -> TensorArgument:
        if sorted(self.order) != list(range(len(self.shape))):
            raise ValueError(f"{self.path}: its order does not name each dimension once")
        return self

    @property
    def is_small(self) -> bool:
        """Whether it is cast to what was compiled."""
        return len(self.shape) < SMALL

    def takes_shape(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape fits."""
        return len(shape) == len(self.shape) and all(
            dimension.takes(size) if isinstance(dimension, Range) else dimension == size
            for dimension, size in zip(self.shape, shape, strict=True)
        )

    def takes_dtype(self, dtype: str) -> bool:
        """Whether a tensor of this dtype fits, cast if it is a small one."""
        return dtype == self.dtype or (self.is_small and dtype in WIDENED.get(self.dtype, ()))

    def __str__(self) -> str:
        sizes = (f"{s.least}..{s.most}" if isinstance(s, Range) else str(s) for s in self.shape)
        return f"{self.path}: {self.dtype}[{', '.join(sizes)}]"


class Constant(_Data):
    """An argument that must be equal; empty containers count as constants."""

    path: str
    value: Scalar = None
    empty: Literal["", "dict", "list", "tuple"] = ""

    def __str__(self) -> str:
        return f"{self.path}={self.shown}"

    @property
    def shown(self) -> str:
        """The value as Python writes it."""
        return {"dict": "{}", "list": "[]", "tuple": "()"}.get(self.empty) or repr(self.value)


class Signature(_Data):
    """The calls that a part serves."""

    tensors: tuple[TensorArgument, ...]
    constants: tuple[Constant, ...] = ()
    ignored: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The tensors, and those constants that say something."""
        constants = [c for c in self.constants if c.value is not None and c.path != RETURN_DICT]
        return ", ".join(map(str, (*self.tensors, *constants)))

    def misfit(self, leaves: Mapping[str, Any]) -> str:
        """Why a call does not fit: the first argument at fault; empty if it fits.

        leaves: `Seen` tensors, `Constant`s, and None for what is ignored, by path.
        """
        tensors = {tensor.path: tensor for tensor in self.tensors}
        constants = {constant.path: constant for constant in self.constants}
        known = dict.fromkeys((*tensors, *constants, *self.ignored, RETURN_DICT))
        for path in leaves:
            if path not in known:
                return f"{path} was not given when it was compiled"
        for path in known:
            if path not in leaves and path != RETURN_DICT:
                return f"{path} is missing"
        for path, leaf in leaves.items():
            fault = ""
            if path in tensors:
                fault = _tensor_misfit(tensors[path], leaf)
            elif path in constants and path != RETURN_DICT:
                fault = _constant_misfit(constants[path], leaf)
            if fault:
                return fault
        return self._unequal(leaves)

    def _unequal(self, leaves: Mapping[str, Any]) -> str:
        """Whether sizes that go together differ."""
        values: dict[str, tuple[int, str]] = {}
        for tensor in self.tensors:
            leaf = leaves[tensor.path]
            for dimension, size in zip(tensor.shape, getattr(leaf, "shape", ()), strict=False):
                if not isinstance(dimension, Range):
                    continue
                value = size // dimension.times
                known, path = values.setdefault(dimension.symbol, (value, tensor.path))
                if known != value:
                    return f"{tensor.path} is {leaf}, which does not go with {path}"
        return ""


@dataclass(frozen=True)
class Seen:
    """A tensor of a real call."""

    dtype: str
    shape: tuple[int, ...]
    device: str

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


def _tensor_misfit(argument: TensorArgument, leaf: Any) -> str:
    if isinstance(leaf, Constant):
        # A plain number serves where a tensor without dimensions was compiled.
        kind = {int: "int64", float: "float32"}.get(type(leaf.value), "")
        fits = kind and not argument.shape and argument.takes_dtype(kind)
        return "" if fits else f"{leaf} is no tensor"
    if not isinstance(leaf, Seen):
        return f"{argument.path} is no plain tensor"
    if not argument.takes_shape(leaf.shape) or not argument.takes_dtype(leaf.dtype):
        return f"{argument.path} is {leaf}"
    # A small tensor may be copied to the accelerator, and none back: that would wait for it.
    if leaf.device != argument.device and not (argument.is_small and leaf.device == "cpu"):
        return f"{argument.path} is on {leaf.device}, not on {argument.device}"
    return ""


def _constant_misfit(constant: Constant, leaf: Any) -> str:
    if isinstance(leaf, Seen):
        return f"{constant.path} is {leaf}"
    if not isinstance(leaf, Constant):
        return f"{constant.path} is no plain value"
    same = leaf.empty == constant.empty and type(leaf.value) is type(constant.value)
    return "" if same and leaf.value == constant.value else str(leaf)
