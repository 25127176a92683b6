"""What a step may know of a component before it runs: kinds of layers, sizes, numbers. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class ComponentFacts:
    """One component of a model, for steps that say whether they may make it faster.

    name: how recipes name it. kind: its class, which tells the family.
    dtype: the kind of numbers that most of its weights are.
    parameters: how many numbers its weights hold.
    layers: how many modules of each class it has: {"Conv2d": 46, "Linear": 122}.
    linears: the width of input and output of each linear layer.
    repeated: the most modules of one class that lie beside each other, as in a list of blocks.
    calls: how often the sample calls each of its entry points.
    sizes: how many sizes the recipe has compiled code serve.

    >>> import compilekit as ck
    >>> ck.ComponentFacts(name="vae", kind="AutoencoderKL", layers={"Conv2d": 8}).layers["Conv2d"]
    8
    """

    name: str
    kind: str
    dtype: str = "float32"
    parameters: int = 0
    layers: Mapping[str, int] = field(default_factory=dict)
    linears: tuple[tuple[int, int], ...] = ()
    repeated: int = 0
    calls: Mapping[str, int] = field(default_factory=dict)
    sizes: int = 1
