"""The documented pipelines of optimum-habana, made of a stock pipeline's components.

Used by the worker, where a bundle is loaded, and by `apply` in an interpreter that has it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compilekit.workers.faults import Fault, MachineFault, ModelFault

from . import config, driver, packages, recipes

MODEL = "model"

PIPELINES = (
    "CogVideoXImageToVideoPipeline", "CogVideoXPipeline", "DDPMPipeline", "FluxImg2ImgPipeline",
    "FluxPipeline", "I2VGenXLPipeline", "QwenImagePipeline", "StableDiffusion3Pipeline",
    "StableDiffusionControlNetPipeline", "StableDiffusionDepth2ImgPipeline",
    "StableDiffusionImageVariationPipeline", "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline", "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionLDM3DPipeline", "StableDiffusionPipeline", "StableDiffusionUpscalePipeline",
    "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLPipeline", "StableVideoDiffusionPipeline", "TextToVideoSDPipeline",
    "WanImageToVideoPipeline", "WanPipeline",
)  # fmt: skip
"""The pipelines of diffusers that optimum-habana has its own of."""

SCHEDULERS = {
    f"{name}Scheduler": f"Gaudi{name}Scheduler"
    for name in ("DDIM", "EulerDiscrete", "EulerAncestralDiscrete", "FlowMatchEulerDiscrete")
}


def refuse_unknown(kind: str) -> None:
    """Look whether optimum-habana has a pipeline like this. Imports nothing of it."""
    if kind not in PIPELINES:
        raise ModelFault(
            f"optimum-habana has no pipeline for {kind}; it has {', '.join(PIPELINES)}"
        )


def gaudi_pipeline(stock: Any, kind: str, options: Mapping[str, Any]) -> Any:
    """The Gaudi pipeline with a stock pipeline's components."""
    refuse_unknown(kind)
    library = _library()
    from optimum.habana import GaudiConfig

    with_graphs = options["mode"] == "graphs"
    plain = getattr(library, f"Gaudi{kind}")
    dropped = _dropped(plain) if with_graphs else []
    settings = getattr(getattr(stock, "unet", None), "config", {})
    if "timestep_cond" in dropped and settings.get("time_cond_proj_dim") is not None:
        raise Fault(
            f"the graphs of {plain.__name__} drop `timestep_cond`, so the guidance of this "
            "distilled UNet would be lost: use `engine: native`"
        )
    owner = _with_calls(plain, options["batch_size"], dropped)
    taken = inspect.signature(owner.__init__).parameters
    known = {**stock.config, **stock.components}
    parts = {name: part for name, part in known.items() if name in taken}
    parts["scheduler"] = _scheduler(library, stock.scheduler, options["scheduler"])
    dtypes = {str(part.dtype) for part in parts.values() if hasattr(part, "parameters")}
    subject = owner(
        **parts,
        use_habana=True,
        use_hpu_graphs=with_graphs,
        # Its op lists are declared by now: handed over again, they would be refused as too late.
        gaudi_config=GaudiConfig(**config.without_lists(config.read(options["gaudi_config"]))),
        bf16_full_eval=dtypes == {"torch.bfloat16"},
    )
    subject.set_progress_bar_config(disable=True)
    return subject.to("hpu")


def _library() -> Any:
    """optimum-habana. While it is imported it asks `pip list`, which must be this interpreter's."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join(filter(None, [str(Path(sys.executable).parent), before]))
    try:
        import optimum.habana.diffusers
    except ImportError as error:
        raise MachineFault(f"optimum-habana cannot be imported: {error}") from error
    except IndexError as error:
        raise MachineFault(
            f"optimum-habana asks `pip list` for {packages.PLUGIN}, and gets no answer for "
            f"{sys.executable}: give that interpreter a pip (python -m ensurepip)"
        ) from error
    finally:
        os.environ["PATH"] = before
    return optimum.habana.diffusers


def _scheduler(library: Any, scheduler: Any, named: str) -> Any:
    """Gaudi's own scheduler of the kind that the pipeline has; another kind is another result."""
    kind = type(scheduler).__name__
    name = named or SCHEDULERS.get(kind, "")
    if not name:
        return scheduler
    stock = {gaudi: plain for plain, gaudi in SCHEDULERS.items()}.get(name, name)
    if name not in SCHEDULERS.values() and name != kind:
        known = ", ".join(SCHEDULERS.values())
        raise Fault(f"scheduler: optimum-habana has no {name}; it has {known}")
    if kind not in (stock, name):
        raise Fault(
            f"scheduler: {name} draws other pictures than the pipeline's {kind}: put the step "
            f"`scheduler: {{name: {stock}}}` before this one"
        )
    return getattr(library, name).from_config(scheduler.config) if name != kind else scheduler


CONDITIONS = {
    "timestep_cond": (),
    "cross_attention_kwargs": ("cross_attention_kwargs",),
    "added_cond_kwargs": ("ip_adapter_image", "ip_adapter_image_embeds"),
}
"""What a UNet may be given beside latents and text, and the arguments of a call that bring it."""


def _dropped(owner: Any) -> list[str]:
    """What of that the graphs of a pipeline leave out: they hold a fixed list of arguments."""
    captures = getattr(owner, "capture_replay", None)
    if captures is None:
        return []
    taken = inspect.signature(captures).parameters
    return [name for name in CONDITIONS if name not in taken]


def _with_calls(owner: Any, batch_size: int, dropped: Sequence[str]) -> Any:
    """The pipeline's class; its call has another `batch_size`, and refuses what would be lost."""
    plain = owner.__call__
    takes_batch = "batch_size" in inspect.signature(plain).parameters
    if batch_size != 1 and not takes_batch:
        raise Fault(f"batch_size: {owner.__name__} makes one batch of a call")
    lost = {argument for name in dropped for argument in CONDITIONS[name]}

    @functools.wraps(plain)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        for name in lost:
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"{name}: the graphs of {owner.__name__} drop it: use `engine: native`"
                )
        if takes_batch:
            kwargs.setdefault("batch_size", batch_size)
        with vars(self).get("_compilekit_around", contextlib.nullcontext)():
            return plain(self, *args, **kwargs)

    return type(owner.__name__, (owner,), {"__call__": call, "__module__": owner.__module__})


def report(subject: Any) -> dict[str, object]:
    """What is known of its graphs; optimum-habana counts no replays."""
    cache = getattr(subject, "cache", None)
    counts = driver.cache_counts()
    return {
        "graphs": {} if cache is None else {"denoiser": {"captures": len(cache)}},
        **({"recipe_cache": counts} if counts else {}),
    }


class Running:
    """A folder's pipeline, on the device."""

    def __init__(
        self, folder: Path, kind: str, options: Mapping[str, Any], dtypes: Mapping[str, str]
    ) -> None:
        import diffusers
        import torch

        refuse_unknown(kind)
        self._folder = folder
        kinds = {name: getattr(torch, text) for name, text in dtypes.items()}
        try:
            with recipes.no_bars():
                stock = getattr(diffusers, kind).from_pretrained(folder / MODEL, torch_dtype=kinds)
        except (OSError, ValueError, TypeError, RuntimeError, KeyError) as error:
            first = str(error).strip().partition("\n")[0]
            raise ModelFault(f"the model cannot be loaded by diffusers here: {first}") from error
        self.subject = gaudi_pipeline(stock, kind, options)

    def warm_up(self, calls: Sequence[Mapping[str, Any]], seed: int, say: Any) -> None:
        """Run the warm-up list, in its order."""
        for number, call in enumerate(calls, 1):
            say(f"warming up {number} of {len(calls)}")
            self.draw(call, seed)
        driver.flush()

    def draw(self, call: Mapping[str, Any], seed: int) -> Any:
        """The pictures of one call; None if it gives none."""
        import numpy as np
        import torch

        arguments = {"output_type": "np", **recipes.opened(call, self._folder)}
        generator = torch.Generator("cpu").manual_seed(seed)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            result = self.subject(**arguments, generator=generator)
        images = getattr(result, "images", None)
        return np.stack(images) if isinstance(images, list) else images

    def report(self) -> dict[str, object]:
        """What was captured and compiled."""
        return report(self.subject)
