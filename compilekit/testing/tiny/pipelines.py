"""Put together a tiny pipeline of each kind, with weights that a seed decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from compilekit.errors import UsageError
from compilekit.testing.tiny import families, parts
from compilekit.testing.tiny.parts import CLIP_WIDTH, LATENTS, T5_WIDTH

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline
    from transformers import CLIPTextModel


def tiny_pipeline(
    kind: str, *, seed: int = 0, dtype: torch.dtype | None = None
) -> DiffusionPipeline:
    """Build a tiny pipeline of the class that `kind` names, on the CPU.

    kind: one of `TINY_KINDS`, or the name of a class in `TINY_CLASSES`.
    seed: decides the weights; the process's own random state is neither read nor changed.
    dtype: cast to it; float32 otherwise.
    """
    if kind not in (*_KINDS, *families.FAMILIES):
        kinds = ", ".join(_KINDS)
        raise UsageError(
            f'there is no tiny pipeline "{kind}"; the kinds are {kinds}, '
            "and the classes in TINY_CLASSES"
        )
    pipeline = _seeded(_KINDS.get(kind) or (lambda: families.build(kind, _kind)), seed)
    for component in pipeline.components.values():
        if hasattr(component, "eval"):
            component.eval()
    if dtype is not None:
        pipeline.to(dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_text_encoder(seed: int = 0) -> CLIPTextModel:
    """Build a tiny CLIP text encoder: a plain module that is not part of a pipeline."""
    return _seeded(parts.clip, seed).eval()


def _kind(kind: str) -> Any:
    return _KINDS[kind]()


def _seeded(build: Callable[[], Any], seed: int) -> Any:
    import torch

    # Only the CPU's generator: `torch.manual_seed` would reseed every accelerator as well.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()


def _sd(kind: str, in_channels: int = LATENTS) -> DiffusionPipeline:
    import diffusers

    pipeline: DiffusionPipeline = getattr(diffusers, f"StableDiffusion{kind}")(
        unet=parts.unet(in_channels=in_channels),
        vae=parts.vae(scaling_factor=0.18215),
        text_encoder=parts.clip(),
        tokenizer=parts.clip_tokenizer(),
        scheduler=_ddim(0.00085, 0.012, "scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline


def _sdxl() -> DiffusionPipeline:
    from diffusers import StableDiffusionXLPipeline

    time_ids, time_width = 6, 8
    return StableDiffusionXLPipeline(
        unet=parts.unet(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            cross_attention_dim=2 * CLIP_WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=time_width,
            projection_class_embeddings_input_dim=CLIP_WIDTH + time_ids * time_width,
        ),
        vae=parts.vae(scaling_factor=0.13025),
        text_encoder=parts.clip(),
        text_encoder_2=parts.clip_with_projection(),
        tokenizer=parts.clip_tokenizer(),
        tokenizer_2=parts.clip_tokenizer(),
        scheduler=_ddim(0.00085, 0.012, "scaled_linear"),
        add_watermarker=False,
    )


def _sd3() -> DiffusionPipeline:
    import diffusers

    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=32,
            in_channels=LATENTS,
            out_channels=LATENTS,
            num_layers=3,
            num_attention_heads=4,
            attention_head_dim=16,
            joint_attention_dim=T5_WIDTH,
            caption_projection_dim=64,
            pooled_projection_dim=2 * CLIP_WIDTH,
            pos_embed_max_size=32,
        ),
        vae=parts.vae(scaling_factor=1.5305, shift_factor=0.0609, quant_conv=False),
        text_encoder=parts.clip_with_projection(),
        text_encoder_2=parts.clip_with_projection(),
        text_encoder_3=parts.t5(),
        tokenizer=parts.clip_tokenizer(),
        tokenizer_2=parts.clip_tokenizer(),
        tokenizer_3=parts.t5_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def _flux() -> DiffusionPipeline:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            in_channels=4 * LATENTS,
            num_layers=2,
            num_single_layers=3,
            num_attention_heads=4,
            attention_head_dim=16,
            joint_attention_dim=T5_WIDTH,
            pooled_projection_dim=CLIP_WIDTH,
            guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        ),
        vae=parts.vae(scaling_factor=0.3611, shift_factor=0.1159, quant_conv=False),
        text_encoder=parts.clip(),
        text_encoder_2=parts.t5(),
        tokenizer=parts.clip_tokenizer(),
        tokenizer_2=parts.t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )


def _pixart() -> DiffusionPipeline:
    from diffusers import PixArtSigmaPipeline, PixArtTransformer2DModel

    # The pipeline draws at the nearest 256x256 resolution and shrinks the picture to what was
    # asked for, so its VAE has the real factor of eight, to keep the latents at 32x32.
    return PixArtSigmaPipeline(
        transformer=PixArtTransformer2DModel(
            sample_size=32,
            in_channels=LATENTS,
            out_channels=2 * LATENTS,
            num_layers=3,
            num_attention_heads=4,
            attention_head_dim=16,
            cross_attention_dim=64,
            caption_channels=T5_WIDTH,
        ),
        vae=parts.vae(channels=(8, 16, 16, 32), scaling_factor=0.13025),
        text_encoder=parts.t5(),
        tokenizer=parts.t5_tokenizer(),
        scheduler=_ddim(0.0001, 0.02, "linear"),
    )


def _ddim(start: float, end: float, schedule: str) -> Any:
    # SDXL and PixArt come with Euler and DPM-Solver, which raise a DeprecationWarning from
    # NumPy 2.4 on; DDIM fits their pipelines as well, and tests that forbid warnings.
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=start,
        beta_end=end,
        beta_schedule=schedule,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


_KINDS: dict[str, Callable[[], Any]] = {
    "sd": lambda: _sd("Pipeline"),
    "sd-img2img": lambda: _sd("Img2ImgPipeline"),
    # The latents, those of the masked image, and the mask: the layout of the inpainting weights.
    "sd-inpaint": lambda: _sd("InpaintPipeline", in_channels=2 * LATENTS + 1),
    "sdxl": _sdxl,
    "sd3": _sd3,
    "flux": _flux,
    "pixart": _pixart,
}
TINY_KINDS: tuple[str, ...] = tuple(_KINDS)
"""What `tiny_pipeline` can build by a short name."""

TINY_CLASSES: tuple[str, ...] = tuple(families.FAMILIES)
"""The classes of diffusers that `tiny_pipeline` can build too, by their names."""
