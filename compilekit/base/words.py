"""The small words that every room uses: devices, purposes, kinds of change, sizes."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Device = Literal["cpu", "cuda", "hpu", "neuron", "mps", "xpu"]
DEVICES: tuple[Device, ...] = get_args(Device)

Purpose = Literal["apply", "build", "load"]
"""Why a step runs: to change a model in this process, to build a bundle, or to load one."""

Sizes = Literal["one", "fixed", "batch", "any"]
SIZES: tuple[Sizes, ...] = get_args(Sizes)
"""Which calls one part of a bundle serves.

one: calls of a single size; the recipe may have no other.
fixed: one part per size.
batch: any batch; the other dimensions are fixed.
any: any size in any dimension.
"""

Severity = Literal["fatal", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""How bad a difference is between this machine and the one that built a bundle; worst first."""

Change = Literal["results", "weights", "structure", "layout", "dtype", "runtime", "compiled"]
CHANGES: tuple[Change, ...] = get_args(Change)

ALL_COMPONENTS = "*"
"""The components of a step that names none: the whole pipeline."""

Size = Annotated[int, Field(ge=0)]


class Range(BaseModel):
    """A symbolic dimension: every size from `least` to `most`.

    symbol, times: the size is `times` the value of the symbol. All dimensions with the same
        symbol in one call share its value.

    >>> import compilekit as ck
    >>> ck.Range(least=2, most=8, symbol="s0", times=2).takes(6)
    True
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    least: Size
    most: Size
    symbol: str
    times: Annotated[int, Field(ge=1)] = 1

    def takes(self, size: int) -> bool:
        """Whether the dimension may have this size."""
        return self.least <= size <= self.most and size % self.times == 0
