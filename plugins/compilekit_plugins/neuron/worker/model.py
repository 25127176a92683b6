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
        found = kind.from_pretrained(folder, torch_dtype=dtype(job), **_replaced(job))
    except (OSError, ValueError, TypeError, RuntimeError, KeyError) as error:
        raise ModelFault(
            f"the model cannot be loaded by diffusers here: {_first(error)}"
        ) from error
    for name, component in found.components.items():
        if hasattr(component, "eval"):
            component.eval()
            _all_there(name, component, Path(_other(job, name) or folder / name))
    found.set_progress_bar_config(disable=True)
    adapter = job.options.get("ip_adapter")
    if adapter:
        found.load_ip_adapter(
            adapter["source"], subfolder=adapter["subfolder"], weight_name=adapter["weight_name"]
        )
        found.set_ip_adapter_scale(adapter["scale"])
    unet = getattr(found, "unet", None)
    if not to_export and unet is not None and unet.config.time_cond_proj_dim is not None:
        # A distilled UNet: the compiled pipeline has this scheduler too, whatever the folder's.
        from diffusers import LCMScheduler

        found.scheduler = LCMScheduler.from_config(found.scheduler.config)
    if not to_export:
        _fuse(found, job.options.get("lora", []))
    return found


def _other(job: Any, name: str) -> str:
    """The folder of a part that the options put in place of the model's own."""
    return str(job.options.get("unet") or "") if name == "unet" else ""


def _replaced(job: Any) -> dict[str, Any]:
    """The parts that the options put in place of the model's own."""
    other = _other(job, "unet")
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
        known = ", ".join(PIPELINES)
        raise ModelFault(f"optimum-neuron has no pipeline for {name}; it has {known}")


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
    own = sorted(path for path in folder.glob("controlnet*") if (path / "config.json").is_file())
    return [str(path) for path in own]


def lora_arguments(adapters: list[dict[str, Any]]) -> Any:
    """The adapters as optimum-neuron takes them; None if there are none."""
    if not adapters:
        return None
    from optimum.neuron.utils import LoRAAdapterArguments

    return LoRAAdapterArguments(
        model_ids=[each["source"] for each in adapters],
        weight_names=[each["weight_name"] for each in adapters],
        adapter_names=[ADAPTER.format(number) for number in range(len(adapters))],
        scales=[each["scale"] for each in adapters],
    )


def _fuse(found: Any, adapters: list[dict[str, Any]]) -> None:
    """As optimum-neuron does it, so that pictures can be compared."""
    names = [ADAPTER.format(number) for number in range(len(adapters))]
    for name, each in zip(names, adapters, strict=True):
        _load_lora(found, name, each)
    if adapters:
        found.set_adapters(names, adapter_weights=[each["scale"] for each in adapters])
        found.fuse_lora()


def _load_lora(found: Any, name: str, each: dict[str, Any]) -> None:
    try:
        found.load_lora_weights(each["source"], weight_name=each["weight_name"], adapter_name=name)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise Fault(f"lora: {each['source']} cannot be loaded: {_first(error)}") from error


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
