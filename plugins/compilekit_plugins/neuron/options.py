"""The options of `neuron`, and which of them make no sense together. Light: no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

import compilekit as ck

if TYPE_CHECKING:
    from compilekit.steps import Device, Purpose

MULTIPLE = 8
Size = Annotated[int, Field(gt=0, strict=True)]


class Lora(ck.Options):
    """An adapter that is fused into the weights.

    source: its folder or hub id.
    weight_name: the file in it.
    scale: how strongly it works.
    """

    source: str
    weight_name: str
    scale: float = 1.0


class IPAdapter(ck.Options):
    """An image prompt's adapter.

    source: its folder or hub id.
    subfolder: the folder in it.
    weight_name: the file in that.
    scale: how strongly it works.
    """

    source: str
    subfolder: str = ""
    weight_name: str
    scale: float = 1.0


class Neuron(ck.Options):
    """Options of `neuron`.

    height, width: of the pictures, multiples of 8.
    batch_size: prompts in one call.
    num_images_per_prompt: pictures for each of them.
    auto_cast, auto_cast_type: what the compiler casts, and to what.
    optlevel: how hard the compiler tries, from 1 to 3.
    instance_type: what it is compiled for.
    data_parallel: what lies on both cores of a device: the UNet, everything or nothing.
    dynamic_batch: whether calls may have multiples of the batch.
    inline_weights: whether the weights are inside of the compiled code.
    lora: adapters to fuse into the weights.
    ip_adapter: an adapter for image prompts.
    unet: another UNet's folder, in place of the model's.
    fuse_softmax: whether the compiler fuses softmax and SiLU.
    validation: whether upstream compares numbers on the device after compiling.
    python: the interpreter that has the SDK; left out, COMPILEKIT_NEURON_PYTHON or this one.
    time_limit: seconds after which a build is given up.
    """

    height: Size
    width: Size
    batch_size: Size = 1
    num_images_per_prompt: Size = 1
    auto_cast: Literal["none", "matmul", "all"] = "matmul"
    auto_cast_type: Literal["bf16", "fp16", "tf32"] = "bf16"
    optlevel: Annotated[int, Field(ge=1, le=3, strict=True)] = 2
    instance_type: Literal["inf2", "trn1", "trn1n", "trn2"] = "inf2"
    data_parallel: Literal["auto", "unet", "all", "none"] = "auto"
    dynamic_batch: bool = False
    inline_weights: bool = True
    lora: tuple[Lora, ...] = ()
    ip_adapter: IPAdapter | None = None
    unet: str = ""
    fuse_softmax: bool = True
    validation: bool = False
    python: str = ""
    time_limit: Size = 14400


def objections(options: Neuron, device: Device, purpose: Purpose) -> Iterator[str]:
    """Why these options make no sense."""
    del device
    if purpose == "apply":
        yield (
            "compiles for a Neuron device ahead of time, so there is nothing to run in this "
            "process: use `compilekit build`, and `compilekit plan --for build` to check it"
        )
    for name in ("height", "width"):
        value = getattr(options, name)
        if value % MULTIPLE:
            near = max(MULTIPLE, round(value / MULTIPLE) * MULTIPLE)
            yield f"{name}: {value} is no multiple of {MULTIPLE}, as latents need; {near} is"
    if options.auto_cast == "none" and "auto_cast_type" in options.model_fields_set:
        yield "auto_cast_type: nothing is cast with `auto_cast: none`; leave it out"
    if options.dynamic_batch and not options.inline_weights:
        yield "inline_weights: false does not go with dynamic_batch; leave one of them out"
