"""`torchao`: linear layers whose weights, or weights and inputs, are stored and multiplied smaller.

The dynamic configs quantise activations in each call too: on CUDA they pay when something compiles
them afterwards. The others only store weights smaller.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

import compilekit as ck

if TYPE_CHECKING:
    from compilekit.model import Model
    from compilekit.steps import Device, Purpose

Config = Literal["int8_dynamic", "int8_weight", "int4_weight", "float8_dynamic", "float8_weight"]

DYNAMIC: tuple[Config, ...] = ("int8_dynamic", "float8_dynamic")
"""The configs that quantise what a layer is given as well."""

CUDA_ROWS = 16
"""The int8 matrix product of CUDA wants more rows than this; with fewer, nothing is gained."""

LEAST_FEATURES = 64
"""Layers that are narrower gain nothing."""

CPU_GROUPS = (32, 64, 128)
"""The group sizes that int4 products on a CPU know."""

ONLY_FOR: dict[str, Config] = {"group_size": "int4_weight", "granularity": "float8_dynamic"}
"""Options that mean something for one config alone."""


class Torchao(ck.Options):
    """Options of `torchao`.

    config: what is quantised, and to what.
    group_size: how many weights share a scale; for `int4_weight`, which has 128 if left out.
    granularity: what shares a scale; for `float8_dynamic`, which has `per_tensor` if left out.
    min_features: leave layers alone whose input or output is narrower than this.
    min_rows: leave layers alone that multiply fewer rows than this in a call; left out, it is 17
        for the configs that quantise activations, and 1 for the others.
    include: only layers whose names match one of these patterns (`*` stands for anything).
    exclude: not those whose names match one of these.
    """

    config: Config
    group_size: Literal[32, 64, 128, 256] | None = None
    granularity: Literal["per_tensor", "per_row"] | None = None
    min_features: int = Field(default=LEAST_FEATURES, ge=1)
    min_rows: int | None = Field(default=None, ge=1)
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fits_its_config(self) -> Torchao:
        for option, config in ONLY_FOR.items():
            if getattr(self, option) is not None and self.config != config:
                raise ValueError(f"{option} is for the config {config}, not {self.config}")
        return self

    @property
    def rows(self) -> int:
        """The fewest rows that a layer must multiply."""
        return self.min_rows or (CUDA_ROWS + 1 if self.config in DYNAMIC else 1)


def effects_of(options: Torchao, device: Device) -> ck.Effects:
    """What the step does. With patterns it leaves room for another quantiser beside it."""
    everything = options.include == ("*",) and not options.exclude
    return ck.effects(
        "weights",
        needs=["plain_linear_weights"],
        gives=["quantised_weights"],
        removes=["stock_state_dict", *(["plain_linear_weights"] if everything else [])],
        # Weights that hooks move or cast are not there, or not as they are, when the step runs.
        conflicts=["cast_inside", "offloaded_inside"],
        needs_later=["compiled"] if device == "cuda" and options.config in DYNAMIC else [],
    )


def _check(options: Torchao, device: Device, purpose: Purpose) -> Iterable[str]:
    if device == "cpu" and options.config == "float8_dynamic":
        yield f'config: {options.config} is for the target "cuda": a CPU has no float8 product'
    if device == "cpu" and options.config == "int4_weight":
        if options.group_size and options.group_size not in CPU_GROUPS:
            known = ", ".join(map(str, CPU_GROUPS))
            yield f'group_size: on the target "cpu" it is one of {known}'
        if purpose == "build":
            yield (
                "config: int4_weight cannot be compiled ahead of time on a CPU: torch makes "
                "constants for it while it compiles, and a bundle has only those of the model; "
                "int8_weight can"
            )


def advice_on(options: Torchao, device: Device, machine: ck.Machine) -> Iterable[str]:
    """What will be slow: products of numbers that the processor or the GPU does not have."""
    if device == "cpu" and options.config == "int8_dynamic" and (why := machine.why_slow("int8")):
        yield why
    if device == "cuda" and options.config == "float8_dynamic":
        for gpu in machine.gpus:
            if gpu.before("8.9"):
                yield f"{gpu.name} has no float8 product: int8_dynamic is faster there"


def _candidates(
    component: ck.ComponentFacts, device: Device, machine: ck.Machine
) -> list[dict[str, str]]:
    """Float8, where every GPU multiplies it and some layer is wide enough."""
    is_wide = any(min(widths) >= LEAST_FEATURES for widths in component.linears)
    has_float8 = bool(machine.gpus) and not any(gpu.before("8.9") for gpu in machine.gpus)
    if device != "cuda" or not is_wide or not has_float8:
        return []
    return [{"config": "float8_dynamic", "granularity": "per_row"}]


@ck.hookimpl
def describe() -> ck.StepDescription:
    """Say what the step is."""
    return ck.StepDescription(
        help="Quantise linear layers to int8, int4 or float8 with torchao.",
        options=Torchao,
        effects=effects_of,
        check=_check,
        advice=advice_on,
        candidates=_candidates,
        targets=frozenset({"cpu", "cuda"}),
        packages=("torchao",),
        extra="compilekit[torchao]",
        budget=0.1,
    )


@ck.hookimpl
def optimize_model(model: Model, options: Torchao, context: ck.StepContext) -> ck.StepResult:
    """Quantise the layers that pass the filters, and say why the others did not."""
    from compilekit_plugins.torchao.quantise import quantise

    return quantise(model, options, context)
