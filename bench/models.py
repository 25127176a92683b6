"""The models that benches share: of a size at which times mean something, with random weights."""

from __future__ import annotations

from typing import Any


def unet(width: int = 128, dtype: Any = None) -> Any:
    """Build a UNet like that of Stable Diffusion; 128 gives 94 M parameters, 320 the real one."""
    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    widths = (width, 2 * width, 4 * width, 4 * width)
    built = UNet2DConditionModel(
        sample_size=32, block_out_channels=widths, cross_attention_dim=768, attention_head_dim=8
    )
    return built.eval().to(dtype or torch.float32)


def unet_inputs() -> dict[str, Any]:
    """Build inputs of such a UNet: a batch of two, in 256 by 256 pixels."""
    import torch

    generator = torch.Generator().manual_seed(1)
    return {
        "sample": torch.randn(2, 4, 32, 32, generator=generator),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": torch.randn(2, 77, 768, generator=generator),
    }


def pipeline(width: int = 128, dtype: Any = None) -> Any:
    """Build a Stable Diffusion pipeline around such a UNet; its other parts are tiny."""
    from compilekit.testing import tiny_pipeline
    from compilekit.testing.tiny import parts

    made = tiny_pipeline("sd", dtype=dtype)
    made.register_modules(unet=unet(width, dtype), text_encoder=_encoder(parts).to(made.dtype))
    return made


def _encoder(parts: Any) -> Any:
    """Build a text encoder of the width that the UNet wants."""
    from transformers import CLIPTextModel

    config = parts.clip().config
    config.hidden_size, config.intermediate_size, config.projection_dim = 768, 768, 768
    return CLIPTextModel(config).eval()


def flux(width: int = 8) -> Any:
    """Build a FLUX transformer with the real number of blocks, 19 double and 38 single."""
    import torch
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    return FluxTransformer2DModel(
        in_channels=64,
        num_layers=19,
        num_single_layers=38,
        num_attention_heads=4,
        attention_head_dim=width * 4,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        guidance_embeds=True,
        axes_dims_rope=(width, width, 2 * width),
    ).eval()


def flux_inputs(tokens: int = 256) -> dict[str, Any]:
    """Build inputs of such a transformer."""
    import torch

    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, tokens, 64),
        "encoder_hidden_states": torch.randn(1, 64, 64),
        "pooled_projections": torch.randn(1, 64),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.zeros(tokens, 3),
        "txt_ids": torch.zeros(64, 3),
        "guidance": torch.tensor([3.5]),
    }
