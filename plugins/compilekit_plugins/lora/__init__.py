"""`lora`: adapters, loaded in the one order that works with fusing, quantising and compiling.

Fused, they become part of the weights, and whatever comes later sees plain weights. Otherwise their
layers stay beside the weights, where one adapter can be swapped for another in compiled code.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

import compilekit as ck

if TYPE_CHECKING:
    from compilekit.model import Model
    from compilekit.steps import Device, Purpose

PLAIN_NAME = r"^[A-Za-z0-9_-]*$"
UNFUSED = "holds adapter layers beside its weights, which a folder cannot hold; say `fuse: true`"


class Adapter(ck.Options):
    """One adapter.

    source: its file, a folder with it, or a hub id.
    weight_name: the file's name, where a folder or repository has several.
    revision: the version on the hub.
    name: what it is called later; left out, `adapter_0` and so on.
    scale: how strongly it acts.
    """

    source: str = Field(min_length=1)
    weight_name: str = ""
    revision: str = ""
    name: str = Field(default="", pattern=PLAIN_NAME)
    scale: float = 1.0


class Lora(ck.Options):
    """Options of `lora`.

    adapters: the adapters.
    source, weight_name, revision, name, scale: the same for a single one, in place of `adapters`.
    fuse: merge them into the weights, and drop the adapter layers.
    hotswap: the largest rank of any adapter that will be swapped in later, with
        `pipeline.load_lora_weights(other, hotswap=True)`.
    """

    adapters: tuple[Adapter, ...] = ()
    source: str = ""
    weight_name: str = ""
    revision: str = ""
    name: str = Field(default="", pattern=PLAIN_NAME)
    scale: float = 1.0
    fuse: bool = False
    hotswap: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _makes_sense(self) -> Lora:
        fields = type(self).model_fields
        single = any(getattr(self, name) != fields[name].default for name in Adapter.model_fields)
        if bool(self.source) == bool(self.adapters) or (self.adapters and single):
            raise ValueError("say the `source` of one adapter, or several `adapters`")
        if self.hotswap and self.fuse:
            raise ValueError("a fused adapter cannot be swapped: leave `fuse` or `hotswap` out")
        if self.hotswap and len(self.all) > 1:
            raise ValueError("hotswap: one adapter is swapped for another, so name only one")
        names = [adapter.name for adapter in self.all]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f'two adapters have the name "{twice}"')
        return self

    @property
    def all(self) -> tuple[Adapter, ...]:
        """The adapters, however they were said; each has a name."""
        single = {name: getattr(self, name) for name in Adapter.model_fields}
        return tuple(
            adapter.model_copy(update={"name": adapter.name or f"adapter_{number}"})
            for number, adapter in enumerate(self.adapters or (Adapter(**single),))
        )


def _effects(options: Lora, device: Device) -> ck.Effects:
    del device
    # Compiled code is no conflict of its own: it does not see changed weights or structure anyway.
    return ck.effects(
        "results",
        "weights" if options.fuse else "structure",
        gives=["lora_fused" if options.fuse else "lora_layers"],
        conflicts=["fused_qkv", "quantised_weights", "lora_layers"],
    )


def _check(options: Lora, device: Device, purpose: Purpose) -> Iterable[str]:
    del device
    if purpose == "build" and not options.fuse:
        yield (
            "a bundle's component is made again from its config, which knows of no adapter layers: "
            "say `fuse: true`"
        )


@ck.hookimpl
def describe() -> ck.StepDescription:
    """Say what the step is."""
    return ck.StepDescription(
        help="Load LoRA adapters: fused into the weights, or ready to be swapped later.",
        options=Lora,
        effects=_effects,
        check=_check,
        packages=("peft",),
        extra="compilekit[lora]",
        components="optional",
        reads=lambda options: [adapter.source for adapter in options.all],
    )


@ck.hookimpl
def optimize_model(model: Model, options: Lora, context: ck.StepContext) -> ck.StepResult:
    """Load the adapters, set their scales, and fuse them or make them ready for swaps."""
    from compilekit_plugins.lora.files import file_of
    from compilekit_plugins.lora.layers import layers_of, merge
    from compilekit_plugins.lora.loading import Loader
    from compilekit_plugins.lora.swaps import Swaps

    key, adapters = context.step.key, options.all
    loader = Loader(model, context, options.hotswap)
    files = [file_of(adapter, key) for adapter in adapters]
    for adapter, file in zip(adapters, files, strict=True):
        context.progress(f"loading {adapter.source}")
        loader.load(adapter, file)
    if options.hotswap:
        name, rank = adapters[0].name, options.hotswap
        Swaps(model.subject, name, rank, loader.modules, loader.partly).install()
    scales = {adapter.name: adapter.scale for adapter in adapters}
    model.subject.set_adapters(list(scales), list(scales.values()))
    matched = {name: list(layers_of(module)) for name, module in loader.modules.items()}
    if options.fuse:
        for name, module in loader.modules.items():
            merge(module, f"{key}: {name}")
    return ck.StepResult(
        matched=matched,
        changed=matched,
        skipped=loader.skipped,
        details={"adapters": loader.notes},
        not_savable={} if options.fuse else dict.fromkeys(matched, UNFUSED),
    )
