"""`memory`: weights that wait elsewhere until they are needed, or are stored smaller.

Offloading moves weights to the accelerator for each call; layerwise casting stores them in a
smaller dtype and casts each layer back while it computes. Both take less memory and more time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

import compilekit as ck

if TYPE_CHECKING:
    from compilekit.model import Model
    from compilekit.steps import Change, Device, Purpose


class Group(ck.Options):
    """What `offload: group` moves at a time, and where it waits.

    level: "block" moves the blocks in a component's own lists, "leaf" single layers.
    blocks: how many blocks move together.
    folder: the weights wait in files, in a folder of their own in this one; left out, they wait in
        the CPU's memory.
    stream: fetch a group while the one before it computes.
    """

    level: Literal["block", "leaf"] = "block"
    blocks: int = Field(default=1, ge=1)
    folder: str = ""
    stream: bool = False

    @model_validator(mode="after")
    def _makes_sense(self) -> Group:
        if self.blocks > 1 and self.level == "leaf":
            raise ValueError("blocks is for `level: block`: single layers move one by one")
        if self.blocks > 1 and self.stream:
            raise ValueError("with `stream` one block moves at a time: leave `blocks` out")
        return self


class Layerwise(ck.Options):
    """How weights are stored, and computed with.

    storage: the dtype that they wait in.
    compute: the dtype that they have while their layer runs: the component's own, which is also
        meant if it is left out.
    exclude: layers that stay as they are (`*` stands for anything), beside those that diffusers
        leaves alone.
    """

    storage: Literal["float8_e4m3fn", "float8_e5m2", "bfloat16", "float16"]
    compute: Literal["float32", "bfloat16", "float16"] | None = None
    exclude: tuple[str, ...] = ()


class Memory(ck.Options):
    """Options of `memory`.

    offload: "model" moves a component at a time, "sequential" a layer at a time, "group" groups of
        blocks or layers.
    group: what `offload: group` moves at a time, and where it waits.
    layerwise: store weights in a smaller dtype, and cast each layer for its call.
    """

    offload: Literal["model", "sequential", "group"] | None = None
    group: Group | None = None
    layerwise: Layerwise | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Memory:
        if (self.offload is None) == (self.layerwise is None):
            raise ValueError("say `offload` or `layerwise`; both are two steps, `layerwise` first")
        if self.group and self.offload != "group":
            raise ValueError("`group` is for `offload: group`")
        return self

    @property
    def grouping(self) -> Group:
        """How groups are made."""
        return self.group or Group()


def _effects(options: Memory, device: Device) -> ck.Effects:
    del device
    if options.layerwise:
        return ck.effects(
            "dtype",
            "runtime",
            gives=["cast_inside"],
            removes=["plain_linear_weights"],
            # Casts that come after offloading are undone by what waits elsewhere.
            conflicts=["cast_inside", "offloaded"],
        )
    on_disk = bool(options.grouping.folder)
    by_block = options.offload == "group" and options.grouping.level == "block" and not on_disk
    inside = "offloaded_blocks" if by_block else "offloaded_inside"
    # What is in memory in place of weights that are on disk means nothing.
    changes: list[Change] = ["runtime", "weights"] if on_disk else ["runtime"]
    # Quantised weights cannot be written to diffusers' files, nor moved by hooks between compiled
    # blocks: torch refuses to swap tensors that its compiler has guards on.
    immovable = ["quantised_weights"] if on_disk or by_block else []
    # diffusers' files hold tensors in torch's own layout alone.
    immovable += ["channels_last"] if on_disk else []
    return ck.effects(
        *changes,
        gives=["offloaded"] if options.offload == "model" else ["offloaded", inside],
        removes=["plain_linear_weights"],
        conflicts=["compiled", "offloaded", *immovable],
    )


def _check(options: Memory, device: Device, purpose: Purpose) -> Iterable[str]:
    if purpose == "build" and options.layerwise:
        yield (
            "layerwise: compiled code cannot cast the weights that it reads, so a bundle has no "
            "use for it: use it with apply"
        )
    elif purpose == "build":
        yield (
            "offload: a bundle's compiled code keeps its weights where it reads them: use it with "
            "apply, or offload the loaded pipeline by hand where nothing is compiled"
        )
    if device != "cpu" or not options.offload:
        return
    if options.offload != "group":
        yield (
            f"offload: {options.offload} moves weights to an accelerator and back, and the target "
            '"cpu" has none: leave the step out'
        )
    elif not options.grouping.folder:
        yield (
            'offload: group moves nothing on the target "cpu", which computes where the weights '
            "wait: name a `folder` under `group:` to keep them on disk, or leave the step out"
        )
    if options.grouping.stream:
        yield 'group.stream: the target "cpu" has no streams; leave it out'


@ck.hookimpl
def describe() -> ck.StepDescription:
    """Say what the step is."""
    return ck.StepDescription(
        help="Offload weights to the CPU or to disk, or store them in a smaller dtype.",
        options=Memory,
        effects=_effects,
        check=_check,
        targets=frozenset({"cpu", "cuda", "xpu"}),
        components="optional",
        budget=0.15,
    )


@ck.hookimpl
def optimize_model(model: Model, options: Memory, context: ck.StepContext) -> ck.StepResult:
    """Let diffusers put its hooks there, and say which modules have them."""
    if options.layerwise:
        from compilekit_plugins.memory.casting import cast

        return cast(model, options.layerwise, context)
    from compilekit_plugins.memory.offloading import by_group, whole

    if options.offload == "group":
        return by_group(model, options.grouping, context)
    return whole(model, options.offload or "model", context)
