"""Compiling: optimum-neuron's `main_export`, with what it gets wrong mended."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from compilekit.workers.faults import Fault

from .fixes import mend
from .model import controlnets, lora_arguments, neuron_class, pipeline


def shapes(options: dict[str, Any]) -> dict[str, Any]:
    """The sizes to compile for, as optimum-neuron takes them."""
    from optimum.exporters.neuron import normalize_diffusers_input_shapes

    names = ("batch_size", "height", "width", "num_images_per_prompt")
    return dict(
        normalize_diffusers_input_shapes(
            {**{name: options[name] for name in names}, "sequence_length": None}
        )
    )


def export(job: Any, destination: Path) -> dict[str, Any]:
    """Compile every part into a folder, as optimum-neuron lays it out."""
    mended = mend("export", job.request.get("without", ()))
    from optimum.exporters.neuron import convert, main_export
    from optimum.neuron.utils.system import get_available_cores

    from .fixes_export import set_softmax

    options = job.options
    neuron_class(job.request["class"])  # before hours of work, not after
    _refuse(job)
    set_softmax(fused=options["fuse_softmax"])
    seconds = _timed(job, convert)
    cast = None if options["auto_cast"] == "none" else options["auto_cast"]
    destination.mkdir(parents=True, exist_ok=True)
    main_export(
        model_name_or_path=job.request["model"],
        model=pipeline(job, to_export=True),
        output=destination,
        compiler_kwargs={
            "auto_cast": cast,
            "auto_cast_type": options["auto_cast_type"] if cast else None,
            "instance_type": options["instance_type"],
        },
        task="text-to-image",
        library_name="diffusers",
        torch_dtype=job.request["dtype"],
        dynamic_batch_size=options["dynamic_batch"],
        # Its key knows neither weights nor adapters: it gives back another model.
        disable_neuron_cache=True,
        compiler_workdir="compiler",
        inline_weights_to_neff=options["inline_weights"],
        optlevel=str(options["optlevel"]),
        local_files_only=True,
        do_validation=options["validation"],
        controlnet_ids=controlnets(job) or None,
        lora_args=lora_arguments(options.get("lora", [])),
        **shapes(options),
    )
    if options["validation"] and get_available_cores() == 0:
        job.note("validation on the device was skipped, not passed: there is no Neuron device here")
    return {"seconds": seconds, "fixes": mended, "class": job.request["class"]}


def _refuse(job: Any) -> None:
    """What is known not to work, before the compiler runs."""
    options = job.options
    if "StableDiffusionXL" in job.request["class"] and not options["inline_weights"]:
        raise Fault(
            "inline_weights: false: the SDK cannot compile SDXL's UNet so, and upstream inlines "
            "them all without a word; leave it out"
        )
    if "InstructPix2Pix" in job.request["class"] and not options["dynamic_batch"]:
        raise Fault(
            "dynamic_batch: this pipeline calls its UNet with three times the batch: "
            "say `dynamic_batch: true`"
        )


def _timed(job: Any, convert: Any) -> dict[str, float]:
    """Say which part is compiled, and keep how long each takes."""
    seconds: dict[str, float] = {}
    plain = convert.export

    def timed(*args: Any, **kwargs: Any) -> Any:
        name = Path(kwargs["output"]).parent.name
        job.say(f"compiling {name}")
        start = time.perf_counter()
        try:
            return plain(*args, **kwargs)
        except Exception as error:
            error.args = (f"{name}: {error}",)
            raise
        finally:
            seconds[name] = round(time.perf_counter() - start, 3)

    convert.export = timed
    logging.getLogger("optimum").setLevel(logging.WARNING)
    return seconds
