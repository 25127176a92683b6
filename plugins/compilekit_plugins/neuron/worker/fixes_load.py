"""Fixes that are needed while a compiled pipeline is loaded and runs."""

from __future__ import annotations

import functools
import inspect
from types import SimpleNamespace
from typing import Any

from .fixes import fix, replaced

WANTED: dict[str, str] = {"parallel": ""}
"""How the next pipeline is to be spread over the cores; empty leaves it to upstream."""


@fix(
    "parallel-mode",
    when="load",
    wrong="`data_parallel_mode` is overwritten by what the model's name suggests",
)
def _parallel_mode() -> None:
    from optimum.neuron.modeling_diffusion import NeuronDiffusionPipelineBase as Base

    def make(function: Any) -> Any:
        def mended(neuron_configs: dict[str, Any]) -> tuple[str, int]:
            mode, size = function(neuron_configs)
            wanted = WANTED["parallel"]
            return (wanted, size) if wanted and size == 1 else (mode, size)

        return mended

    replaced(Base, "set_parallel_mode", make)


@fix(
    "lcm-by-config",
    when="load",
    wrong="a latent consistency model is known by its path alone, and a replaced UNet has lost it",
)
def _lcm_by_config() -> None:
    from optimum.neuron.modeling_diffusion import NeuronDiffusionPipelineBase as Base

    def make(function: Any) -> Any:
        def mended(neuron_config: Any) -> bool:
            config = neuron_config._config  # noqa: SLF001 - there is no other way to it
            return getattr(config, "time_cond_proj_dim", None) is not None

        del function
        return mended

    replaced(Base, "is_lcm", make)


@fix(
    "refiner-load",
    when="load",
    wrong="a pipeline with the second text encoder alone, SDXL's refiner, raises KeyError",
)
def _refiner_load() -> None:
    from optimum.neuron.modeling_diffusion import NeuronDiffusionPipelineBase as Base

    def make(function: Any) -> Any:
        @functools.wraps(function)
        def mended(neuron_configs: dict[str, Any]) -> Any:
            # What is asked for next is whether batches are dynamic, which all parts share.
            if "text_encoder" not in neuron_configs and "text_encoder_2" in neuron_configs:
                neuron_configs["text_encoder"] = neuron_configs["text_encoder_2"]
            return function(neuron_configs)

        return mended

    replaced(Base, "set_parallel_mode", make)


@fix(
    "aesthetics-score",
    when="load",
    wrong="`requires_aesthetics_score` of the folder is reset to False, so the refiner gets six "
    "numbers in place of five",
)
def _aesthetics_score() -> None:
    from optimum.neuron.modeling_diffusion import NeuronDiffusionPipelineBase as Base

    def make(init: Any) -> Any:
        @functools.wraps(init)
        def mended(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
            said = dict(config)
            for name in ("requires_aesthetics_score", "force_zeros_for_empty_prompt"):
                if said.get(name) is not None:
                    kwargs.setdefault(name, said[name])
            init(self, config, *args, **kwargs)

        return mended

    replaced(Base, "__init__", make)


@fix(
    "images-per-prompt",
    when="load",
    wrong="a call that does not say `num_images_per_prompt` runs with one, where more were "
    "compiled",
)
def _images_per_prompt() -> None:
    from optimum.neuron.modeling_diffusion import NeuronDiffusionPipelineBase as Base

    def make(call: Any) -> Any:
        @functools.wraps(call)
        def mended(self: Any, *args: Any, **kwargs: Any) -> Any:
            takes = inspect.signature(self.auto_model_class.__call__).parameters
            if "num_images_per_prompt" in takes and self.num_images_per_prompt > 1:
                kwargs.setdefault("num_images_per_prompt", self.num_images_per_prompt)
            return call(self, *args, **kwargs)

        return mended

    replaced(Base, "__call__", make)


@fix(
    "latents-as-image",
    when="load",
    wrong="latents handed over as `image` raise: the truth of a tensor is asked for",
)
def _latents_as_image() -> None:
    import torch
    from optimum.neuron.modeling_diffusion import NeuronDiffusionPipelineBase as Base

    def make(call: Any) -> Any:
        @functools.wraps(call)
        def mended(self: Any, *args: Any, **kwargs: Any) -> Any:
            image = kwargs.get("image")
            if isinstance(image, torch.Tensor):
                kwargs["image"] = [image]
            return call(self, *args, **kwargs)

        return mended

    replaced(Base, "__call__", make)


@fix(
    "guidance-is-said",
    when="load",
    wrong="classifier-free guidance is switched off without a word where the UNet is not on two "
    "cores",
)
def _guidance_is_said() -> None:
    from optimum.neuron.modeling_diffusion import NeuronDiffusionPipelineBase as Base

    def make(call: Any) -> Any:
        @functools.wraps(call)
        def mended(self: Any, *args: Any, **kwargs: Any) -> Any:
            takes = inspect.signature(self.auto_model_class.__call__).parameters
            default = takes["guidance_scale"].default if "guidance_scale" in takes else 0.0
            scale = kwargs.get("guidance_scale", default)
            embeds = getattr(self.unet and self.unet.config, "time_cond_proj_dim", None) is not None
            works = self.dynamic_batch_size or self.data_parallel_mode in ("unet", "transformer")
            if scale is not None and scale > 1 and not embeds and not works:
                raise ValueError(
                    f'guidance_scale={scale} needs the UNet on two cores (data_parallel: "unet") '
                    f'or dynamic_batch: true; this pipeline has "{self.data_parallel_mode}": '
                    "pass guidance_scale=0"
                )
            return call(self, *args, **kwargs)

        return mended

    replaced(Base, "__call__", make)


@fix(
    "image-projection",
    when="load",
    wrong="Stable Diffusion takes every image prompt's adapter for the kind that wants hidden "
    "states, and fails with the kind that takes embeddings",
)
def _image_projection() -> None:
    from optimum.neuron.modeling_diffusion import NeuronDiffusionPipelineBase as Base

    def make(function: Any) -> Any:
        @functools.wraps(function)
        def mended(self: Any) -> None:
            function(self)
            if self.image_encoder is None or not self.encoder_hid_proj:
                return
            from diffusers.models.embeddings import ImageProjection

            if "hidden_states" not in self.image_encoder.neuron_config.outputs:
                # Only its class is looked at; whatever weights it has are never used.
                layers = [ImageProjection(1, 1, 1)]
                self.unet.encoder_hid_proj = SimpleNamespace(image_projection_layers=layers)

        return mended

    replaced(Base, "_maybe_create_dummy_image_proj_layers", make)
