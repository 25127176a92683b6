"""Fixes that are needed while a compiled pipeline is loaded and runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from compilekit.workers.faults import Fault

from .fix import fix
from .sizes import Sizes

BASE = "optimum.neuron.modeling_diffusion:NeuronDiffusionPipelineBase"

WANTED: dict[str, str] = {"parallel": ""}
"""How the next pipeline is to be spread over the cores; empty leaves it to upstream."""

UNCOVERED = "_compilekit_uncovered"
"""The attribute of a pipeline that holds the class of errors for calls of another size."""


@fix(
    "parallel-mode",
    when="load",
    place=(BASE, "set_parallel_mode"),
    wrong="`data_parallel_mode` is overwritten by what the model's name suggests",
)
def _parallel_mode(function: Callable[..., Any], neuron_configs: dict[str, Any]) -> tuple[str, int]:
    mode, size = function(neuron_configs)
    return (WANTED["parallel"] or mode) if size == 1 else mode, size


@fix(
    "lcm-by-config",
    when="load",
    place=(BASE, "is_lcm"),
    wrong="a latent consistency model is known by its path alone, and a replaced UNet has lost it",
)
def _lcm_by_config(_: Callable[..., Any], neuron_config: Any) -> bool:
    config = neuron_config._config  # noqa: SLF001 - there is no other way to it
    return getattr(config, "time_cond_proj_dim", None) is not None


@fix(
    "refiner-load",
    when="load",
    place=(BASE, "set_parallel_mode"),
    wrong="a pipeline with the second text encoder alone, SDXL's refiner, raises KeyError",
)
def _refiner_load(function: Callable[..., Any], neuron_configs: dict[str, Any]) -> Any:
    # What is asked for next is whether batches are dynamic, which all parts share.
    if "text_encoder_2" in neuron_configs:
        neuron_configs.setdefault("text_encoder", neuron_configs["text_encoder_2"])
    return function(neuron_configs)


@fix(
    "aesthetics-score",
    when="load",
    place=(BASE, "__init__"),
    wrong="`requires_aesthetics_score` of the folder is reset to False, so the refiner gets six "
    "numbers in place of five",
)
def _aesthetics_score(
    init: Callable[..., Any], pipeline: Any, config: Any, *args: Any, **kwargs: Any
) -> None:
    settings = dict(config)
    for name in ("requires_aesthetics_score", "force_zeros_for_empty_prompt"):
        if settings.get(name) is not None:
            kwargs.setdefault(name, settings[name])
    init(pipeline, config, *args, **kwargs)


@fix(
    "images-per-prompt",
    when="load",
    place=(BASE, "__call__"),
    wrong="a call that does not say `num_images_per_prompt` runs with one, where more were "
    "compiled",
)
def _images_per_prompt(call: Callable[..., Any], pipeline: Any, *args: Any, **kwargs: Any) -> Any:
    takes = inspect.signature(pipeline.auto_model_class.__call__).parameters
    if "num_images_per_prompt" in takes and pipeline.num_images_per_prompt > 1:
        kwargs.setdefault("num_images_per_prompt", pipeline.num_images_per_prompt)
    return call(pipeline, *args, **kwargs)


@fix(
    "latents-as-image",
    when="load",
    place=(BASE, "__call__"),
    wrong="latents handed over as `image` raise: the truth of a tensor is asked for",
)
def _latents_as_image(call: Callable[..., Any], pipeline: Any, *args: Any, **kwargs: Any) -> Any:
    import torch

    if isinstance(kwargs.get("image"), torch.Tensor):
        kwargs["image"] = [kwargs["image"]]
    return call(pipeline, *args, **kwargs)


@fix(
    "guidance-is-said",
    when="load",
    place=(BASE, "__call__"),
    wrong="classifier-free guidance is switched off without a word where the UNet is not on two "
    "cores",
)
def _guidance_is_said(call: Callable[..., Any], pipeline: Any, *args: Any, **kwargs: Any) -> Any:
    takes = inspect.signature(pipeline.auto_model_class.__call__).parameters
    default = takes["guidance_scale"].default if "guidance_scale" in takes else 0.0
    scale = kwargs.get("guidance_scale", default)
    settings = pipeline.unet and pipeline.unet.config
    embeds = getattr(settings, "time_cond_proj_dim", None) is not None
    works = pipeline.dynamic_batch_size or pipeline.data_parallel_mode in ("unet", "transformer")
    if scale is not None and scale > 1 and not embeds and not works:
        raise ValueError(
            f'guidance_scale={scale} needs the UNet on two cores (data_parallel: "unet") '
            f'or dynamic_batch: true; this pipeline has "{pipeline.data_parallel_mode}": '
            "pass guidance_scale=0"
        )
    return call(pipeline, *args, **kwargs)


@fix(
    "sizes-are-said",
    when="load",
    place=(BASE, "__call__"),
    wrong="`height` and `width` of a call are dropped without a word, and another batch is an "
    "error about shapes",
)
def _sizes_are_said(call: Callable[..., Any], pipeline: Any, *args: Any, **kwargs: Any) -> Any:
    names = list(inspect.signature(pipeline.auto_model_class.__call__).parameters)[1:]
    sizes = _sizes(pipeline)
    if what := sizes.uncovered({**dict(zip(names, args, strict=False)), **kwargs}):
        raise vars(pipeline).get(UNCOVERED, Fault)(
            f"{type(pipeline).__name__}: called with {what}; compiled is {sizes}: call it so, or "
            "build a bundle for that size"
        )
    for name in ("height", "width"):
        kwargs.pop(name, None)
    return call(pipeline, *args, **kwargs)


def _sizes(pipeline: Any) -> Sizes:
    compiled = (pipeline.unet or pipeline.transformer).config.neuron
    return Sizes(
        height=compiled["static_height"] * pipeline.vae_scale_factor,
        width=compiled["static_width"] * pipeline.vae_scale_factor,
        batch=compiled["static_batch_size"] // pipeline.num_images_per_prompt,
        images=pipeline.num_images_per_prompt,
        spread=pipeline.data_parallel_mode == "all",
        dynamic=pipeline.dynamic_batch_size,
    )


@fix(
    "image-projection",
    when="load",
    place=(BASE, "_maybe_create_dummy_image_proj_layers"),
    wrong="Stable Diffusion takes every image prompt's adapter for the kind that wants hidden "
    "states, and fails with the kind that takes embeddings",
)
def _image_projection(function: Callable[..., Any], pipeline: Any) -> None:
    from diffusers.models.embeddings import ImageProjection

    function(pipeline)
    if pipeline.image_encoder is None or not pipeline.encoder_hid_proj:
        return
    if "hidden_states" not in pipeline.image_encoder.neuron_config.outputs:
        # Only its class is looked at; whatever weights it has are never used.
        layers = [ImageProjection(1, 1, 1)]
        pipeline.unet.encoder_hid_proj = SimpleNamespace(image_projection_layers=layers)
