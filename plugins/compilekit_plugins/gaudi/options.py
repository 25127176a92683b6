"""The options of `gaudi`, and which of them make no sense together. Light: no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

import compilekit as ck
from compilekit.workers.faults import Fault
from compilekit_plugins.gaudi.worker import config

if TYPE_CHECKING:
    from compilekit.steps import Device, Purpose

Size = Annotated[int, Field(gt=0, strict=True)]

OPTIMUM_ONLY = ("scheduler", "batch_size", "python")
NATIVE_ONLY = ("outside", "max_graphs")


class Gaudi(ck.Options):
    """Options of `gaudi`.

    engine: what runs the pipeline: stock diffusers ("native"), or optimum-habana ("optimum").
    mode: HPU graphs, or torch.compile; with optimum, graphs alone.
    outside: what a call does whose size was not warmed up: raise, be padded to a batch that was,
        or be captured then.
    max_graphs: how many graphs an entry point may have.
    recompiles: what it means when something is compiled after the warm-up.
    stale: what a bundle does on another stack: raise, or compile its graphs anew.
    gaudi_config: mixed precision: a name (`Habana/stable-diffusion`,
        `Habana/stable-diffusion-2`), or a file or folder.
    scheduler: optimum's scheduler; left out, its own kind of the one that the pipeline has.
    batch_size: pictures in one batch of optimum's pipelines; the last is padded.
    cache_size: megabytes that the recipe cache may take.
    python: the interpreter with optimum-habana, for builds; left out, COMPILEKIT_GAUDI_PYTHON or
        this one.
    time_limit: seconds after which a build is given up.
    """

    engine: Literal["native", "optimum"] = "native"
    mode: Literal["graphs", "compile"] = "graphs"
    outside: Literal["error", "round", "capture"] = "error"
    max_graphs: Size = 16
    recompiles: Literal["error", "warn", "allow"] = "error"
    stale: Literal["error", "recompile"] = "error"
    gaudi_config: str = ""
    scheduler: str = ""
    batch_size: Size = 1
    cache_size: Size = 1024
    python: str = ""
    time_limit: Size = 14400


def objections(options: Gaudi, device: Device, purpose: Purpose) -> Iterator[str]:
    """Why these options make no sense."""
    del device
    named = options.model_fields_set
    if options.engine == "optimum":
        if options.mode == "compile":
            yield "mode: optimum-habana has no torch.compile; `engine: native` has"
        for name in sorted(named.intersection(NATIVE_ONLY)):
            yield f"{name}: optimum-habana captures by itself, so it means nothing there"
        if purpose == "apply" and options.python:
            yield "python: only a build runs elsewhere; start that interpreter for `apply`"
    else:
        for name in sorted(named.intersection(OPTIMUM_ONLY)):
            yield f"{name}: it is for `engine: optimum`"
    if purpose == "apply" and "stale" in named:
        yield "stale: there are no stored recipes to be stale; it is for `build`"
    try:
        config.read(options.gaudi_config)
    except Fault as error:
        yield f"gaudi_config: {error}"
