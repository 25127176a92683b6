"""The model as plain diffusers loads it: it is traced, exported, and drawn with to compare."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from compilekit.workers.faults import Fault, MachineFault, ModelFault

ADAPTER = "default_{}"

PIPELINES = (
    "FluxInpaintPipeline", "FluxKontextPipeline", "FluxPipeline", "LatentConsistencyModelPipeline",
    "PixArtAlphaPipeline", "PixArtSigmaPipeline", "StableDiffusionControlNetPipeline",
    "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline",
    "StableDiffusionInstructPix2PixPipeline", "StableDiffusionPipeline",
    "StableDiffusionXLControlNetPipeline", "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline", "StableDiffusionXLPipeline",
)  # fmt: skip
"""The pipelines of diffusers that optimum-neuron has its own of."""


def pipeline(job: Any, *, to_export: bool) -> Any:
    """Load the pipeline from its folder, with what the options add to it.

    to_export: as optimum-neuron wants it, which takes ControlNets from their own folders, and
        fuses adapters by itself.
    """
    from diffusers.utils import logging

    logging.disable_progress_bar()
    name = job.request["class"]
    kind = plain_class(name.replace("ControlNet", "") if to_export else name)
    folder = Path(job.request["model"])
    try:
        # The folder is relative: flags of the compiler depend on words in whole paths.
        subject = kind.from_pretrained(folder, torch_dtype=dtype(job), **_replaced(job))
    except (OSError, ValueError, TypeError, RuntimeError, KeyError) as error:
        raise ModelFault(
            f"the model cannot be loaded by diffusers here: {_first(error)}"
        ) from error
    for name, component in subject.components.items():
        if hasattr(component, "eval"):
            component.eval()
            other = job.options.get("unet") if name == "unet" else None
            _all_there(name, component, Path(other or folder / name))
    subject.set_progress_bar_config(disable=True)
    adapter = job.options.get("ip_adapter")
    if adapter:
        subject.load_ip_adapter(
            adapter["source"], subfolder=adapter["subfolder"], weight_name=adapter["weight_name"]
        )
        subject.set_ip_adapter_scale(adapter["scale"])
    if to_export:
        return subject
    unet = getattr(subject, "unet", None)
    if unet is not None and unet.config.time_cond_proj_dim is not None:
        # A distilled UNet: the compiled pipeline has this scheduler too, whatever the folder's.
        from diffusers import LCMScheduler

        subject.scheduler = LCMScheduler.from_config(subject.scheduler.config)
    _fuse(subject, job.options.get("lora", []))
    return subject


def _replaced(job: Any) -> dict[str, Any]:
    """The parts that the options put in place of the model's own."""
    other = job.options.get("unet")
    if not other:
        return {}
    from diffusers import UNet2DConditionModel

    try:
        return {"unet": UNet2DConditionModel.from_pretrained(other, torch_dtype=dtype(job))}
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise ModelFault(f"unet: {other} cannot be loaded: {_first(error)}") from error


def _all_there(name: str, module: Any, folder: Path) -> None:
    """Look whether every weight came out of the files: what is missing is drawn at random."""
    from safetensors import safe_open

    stored: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as opened:
            stored.update(opened.keys())
    known = dict(module.named_parameters())
    lost = [key for key in known if key not in stored and not _is_tied(key, known, stored)]
    if stored and lost:
        raise ModelFault(
            f"{name}: {lost[0]} and {len(lost) - 1} other weights have other names in the file "
            "than the libraries of this interpreter expect"
        )


def _is_tied(key: str, known: dict[str, Any], stored: set[str]) -> bool:
    return any(known[other] is known[key] for other in stored & known.keys())


def plain_class(name: str) -> Any:
    """The class of a pipeline of diffusers."""
    import diffusers

    try:
        return getattr(diffusers, name)
    except AttributeError:
        raise MachineFault(f"diffusers {diffusers.__version__} has no {name} here") from None


def refuse_unknown(name: str) -> None:
    """Look whether optimum-neuron has a pipeline like this. Imports nothing of it."""
    if name not in PIPELINES:
        raise ModelFault(
            f"optimum-neuron has no pipeline for {name}; it has {', '.join(PIPELINES)}"
        )


def neuron_class(name: str) -> Any:
    """optimum-neuron's class for a pipeline of diffusers."""
    refuse_unknown(name)
    return getattr(importlib.import_module("optimum.neuron.modeling_diffusion"), f"Neuron{name}")


def dtype(job: Any) -> Any:
    """The dtype that the weights have."""
    import torch

    return getattr(torch, job.request["dtype"])


def controlnets(job: Any) -> list[str]:
    """The folders of the ControlNets, relative as the model's own."""
    folder = Path(job.request["model"])
    return sorted(str(path.parent) for path in folder.glob("controlnet*/config.json"))


def lora_arguments(adapters: list[dict[str, Any]]) -> Any:
    """The adapters as optimum-neuron takes them; None if there are none."""
    if not adapters:
        return None
    from optimum.neuron.utils import LoRAAdapterArguments

    return LoRAAdapterArguments(
        model_ids=[adapter["source"] for adapter in adapters],
        weight_names=[adapter["weight_name"] for adapter in adapters],
        adapter_names=[ADAPTER.format(number) for number in range(len(adapters))],
        scales=[adapter["scale"] for adapter in adapters],
    )


def _fuse(subject: Any, adapters: list[dict[str, Any]]) -> None:
    """As optimum-neuron does it, so that pictures can be compared."""
    scales = {}
    for number, adapter in enumerate(adapters):
        name, source = ADAPTER.format(number), adapter["source"]
        try:
            subject.load_lora_weights(source, weight_name=adapter["weight_name"], adapter_name=name)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise Fault(f"lora: {source} cannot be loaded: {_first(error)}") from error
        scales[name] = adapter["scale"]
    if adapters:
        subject.set_adapters(list(scales), adapter_weights=list(scales.values()))
        subject.fuse_lora()


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
