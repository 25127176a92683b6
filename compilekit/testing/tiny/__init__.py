"""Tiny diffusers pipelines of real classes, built offline in a second, with random weights.

Every pipeline has what compilekit works on: a denoiser with repeated transformer blocks,
linear layers of 64 features and more, a VAE, text encoders and tokenizers that tell prompts
apart. They run at 64x64; "sd-img2img" and "sd-inpaint" want an `image` (and a `mask_image`).

    pipeline = tiny_pipeline("sd")
    picture = pipeline("a cat", height=64, width=64, num_inference_steps=2).images[0]
"""

from __future__ import annotations

from compilekit.testing.tiny.pipelines import (
    TINY_CLASSES,
    TINY_KINDS,
    tiny_pipeline,
    tiny_text_encoder,
)

__all__ = ["TINY_CLASSES", "TINY_KINDS", "tiny_pipeline", "tiny_text_encoder"]
