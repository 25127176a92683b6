"""Families whose denoiser is a transformer, and draws pictures or plays sounds."""

from __future__ import annotations

from compilekit.testing.tiny.making import (
    DDIM,
    FLOW,
    IN_AND_OUT,
    PIXART_VAE,
    SMALL_HEADS,
    T5,
    Row,
    changed,
    chat_tokenizer,
    made_of,
    reader,
    vae,
)
from compilekit.testing.tiny.parts import LATENTS, T5_WIDTH

_FLUX_CONTROL = {
    "controlnet": made_of(
        "FluxControlNetModel",
        "from_transformer",
        "transformer",
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=4,
    )
}


def _sd3_control(more: int) -> dict[str, object]:
    return {
        "controlnet": made_of(
            "SD3ControlNetModel",
            "from_transformer",
            "transformer",
            num_layers=2,
            num_extra_conditioning_channels=more,
        )
    }


def _flux_in(channels: int) -> dict[str, object]:
    """FLUX's transformer, with more channels in: those of a condition beside the latents."""
    wide = changed("transformer", in_channels=channels, out_channels=4 * LATENTS)
    return {"transformer": wide}


_FLUX_LIKE = {
    "in_channels": 4 * LATENTS,
    "num_layers": 2,
    "num_single_layers": 2,
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "joint_attention_dim": T5_WIDTH,
    "axes_dims_rope": (4, 6, 6),
}
_FLUX_VAE = vae(scaling_factor=0.3611, shift_factor=0.1159, quant_conv=False)
_SHIFTED = {"scheduler": ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True})}

ROWS: dict[str, Row] = {
    "StableDiffusion3Img2ImgPipeline": ("sd3", {}),
    "StableDiffusion3InpaintPipeline": (
        "sd3",
        {
            "transformer": changed("transformer", in_channels=16, out_channels=16),
            "vae": changed("vae", latent_channels=16),
        },
    ),
    "StableDiffusion3PAGPipeline": ("sd3", {}),
    "StableDiffusion3PAGImg2ImgPipeline": ("sd3", {}),
    "StableDiffusion3ControlNetPipeline": ("sd3", _sd3_control(0)),
    "StableDiffusion3ControlNetInpaintingPipeline": ("sd3", _sd3_control(1)),
    "FluxImg2ImgPipeline": ("flux", {}),
    "FluxInpaintPipeline": ("flux", {}),
    "FluxKontextPipeline": ("flux", {}),
    "FluxKontextInpaintPipeline": ("flux", {}),
    "FluxControlPipeline": ("flux", _flux_in(8 * LATENTS)),
    "FluxControlImg2ImgPipeline": ("FluxControlPipeline", {}),
    "FluxControlInpaintPipeline": ("FluxControlPipeline", {}),
    "FluxFillPipeline": ("flux", _flux_in(8 * LATENTS + 16)),
    "FluxControlNetPipeline": ("flux", _FLUX_CONTROL),
    "FluxControlNetImg2ImgPipeline": ("flux", _FLUX_CONTROL),
    "FluxControlNetInpaintPipeline": ("flux", _FLUX_CONTROL),
    "PixArtAlphaPipeline": ("pixart", {}),
    "PixArtSigmaPAGPipeline": ("pixart", {}),
    "ChromaPipeline": (
        "flux",
        {
            "transformer": (
                "ChromaTransformer2DModel",
                {
                    **_FLUX_LIKE,
                    "approximator_hidden_dim": 32,
                    "approximator_layers": 1,
                    "approximator_num_channels": 16,
                },
            ),
            **T5,
        },
    ),
    "ChromaImg2ImgPipeline": ("ChromaPipeline", {}),
    "BriaPipeline": ("flux", {"transformer": ("BriaTransformer2DModel", _FLUX_LIKE), **T5}),
    "AuraFlowPipeline": (
        "",
        {
            **T5,
            **FLOW,
            "vae": PIXART_VAE,
            "transformer": (
                "AuraFlowTransformer2DModel",
                {
                    "sample_size": 32,
                    **IN_AND_OUT,
                    "num_mmdit_layers": 1,
                    "num_single_dit_layers": 2,
                    "attention_head_dim": 16,
                    "num_attention_heads": 4,
                    "joint_attention_dim": T5_WIDTH,
                    "caption_projection_dim": 64,
                    "pos_embed_max_size": 256,
                },
            ),
        },
    ),
    "CogView3PlusPipeline": (
        "",
        {
            **T5,
            "scheduler": ("CogVideoXDDIMScheduler", {}),
            "vae": PIXART_VAE,
            "transformer": (
                "CogView3PlusTransformer2DModel",
                {
                    **IN_AND_OUT,
                    **SMALL_HEADS,
                    "text_embed_dim": T5_WIDTH,
                    "time_embed_dim": 32,
                    "condition_dim": 8,
                    "pos_embed_max_size": 32,
                },
            ),
        },
    ),
    "CogView4Pipeline": (
        "",
        {
            **T5,
            "text_encoder": reader("GlmModel"),
            **_SHIFTED,
            "vae": PIXART_VAE,
            "transformer": (
                "CogView4Transformer2DModel",
                {
                    **IN_AND_OUT,
                    **SMALL_HEADS,
                    "text_embed_dim": T5_WIDTH,
                    "time_embed_dim": 32,
                    "condition_dim": 8,
                },
            ),
        },
    ),
    "CogView4ControlPipeline": (
        "CogView4Pipeline",
        {"transformer": changed("transformer", in_channels=2 * LATENTS)},
    ),
    "HunyuanDiTPipeline": (
        "",
        {
            **T5,
            "text_encoder_2": T5["text_encoder"],
            "tokenizer_2": T5["tokenizer"],
            "text_encoder": reader("BertModel"),
            "scheduler": ("DDPMScheduler", {"prediction_type": "v_prediction"}),
            "vae": vae(channels=(8, 16, 16, 32), scaling_factor=0.13025),
            "transformer": (
                "HunyuanDiT2DModel",
                {
                    **SMALL_HEADS,
                    "in_channels": LATENTS,
                    "patch_size": 2,
                    "sample_size": 16,
                    "hidden_size": 64,
                    "cross_attention_dim": T5_WIDTH,
                    "cross_attention_dim_t5": T5_WIDTH,
                    "pooled_projection_dim": 16,
                },
            ),
        },
    ),
    "HunyuanDiTPAGPipeline": ("HunyuanDiTPipeline", {}),
    "LuminaPipeline": (
        "",
        {
            **T5,
            **FLOW,
            "text_encoder": reader("GemmaModel"),
            "vae": PIXART_VAE,
            "transformer": (
                "LuminaNextDiT2DModel",
                {
                    "sample_size": 16,
                    "in_channels": LATENTS,
                    "hidden_size": 64,
                    "num_layers": 2,
                    "num_attention_heads": 4,
                    "num_kv_heads": 2,
                    "multiple_of": 16,
                    "cross_attention_dim": T5_WIDTH,
                },
            ),
        },
    ),
    "Lumina2Pipeline": (
        "",
        {
            **T5,
            **FLOW,
            "text_encoder": reader("Gemma2Model"),
            "vae": _FLUX_VAE,
            "transformer": (
                "Lumina2Transformer2DModel",
                {
                    "sample_size": 16,
                    "in_channels": LATENTS,
                    "hidden_size": 64,
                    "num_layers": 2,
                    "num_refiner_layers": 1,
                    "num_attention_heads": 4,
                    "num_kv_heads": 2,
                    "multiple_of": 16,
                    "axes_dim_rope": (4, 6, 6),
                    "axes_lens": (300, 32, 32),
                    "cap_feat_dim": T5_WIDTH,
                },
            ),
        },
    ),
    "SanaPipeline": (
        "",
        {
            **T5,
            **FLOW,
            "text_encoder": reader("Gemma2Model"),
            "vae": (
                "AutoencoderDC",
                {
                    "latent_channels": LATENTS,
                    "attention_head_dim": 8,
                    "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
                    "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
                    "encoder_block_out_channels": (16, 16),
                    "decoder_block_out_channels": (16, 16),
                    "encoder_layers_per_block": (1, 1),
                    "decoder_layers_per_block": (1, 1),
                    "encoder_qkv_multiscales": ((), (5,)),
                    "decoder_qkv_multiscales": ((), (5,)),
                    "scaling_factor": 0.41407,
                },
            ),
            "transformer": (
                "SanaTransformer2DModel",
                {
                    **IN_AND_OUT,
                    **SMALL_HEADS,
                    "num_cross_attention_heads": 4,
                    "cross_attention_head_dim": 16,
                    "cross_attention_dim": 64,
                    "caption_channels": T5_WIDTH,
                    "sample_size": 16,
                },
            ),
        },
    ),
    "SanaPAGPipeline": ("SanaPipeline", {}),
    "SanaSprintPipeline": (
        "SanaPipeline",
        {
            "transformer": changed(
                "transformer", guidance_embeds=True, qk_norm="rms_norm_across_heads"
            ),
            "scheduler": ("SCMScheduler", {}),
        },
    ),
    "SanaSprintImg2ImgPipeline": ("SanaSprintPipeline", {}),
    "QwenImagePipeline": (
        "",
        {
            **T5,
            "text_encoder": reader("Qwen2Model"),
            **_SHIFTED,
            "vae": ("AutoencoderKLQwenImage", {"base_dim": 4, "num_res_blocks": 1}),
            "transformer": (
                "QwenImageTransformer2DModel",
                {
                    **SMALL_HEADS,
                    "joint_attention_dim": T5_WIDTH,
                    "axes_dims_rope": (4, 6, 6),
                },
            ),
        },
    ),
    "QwenImageImg2ImgPipeline": ("QwenImagePipeline", {}),
    "QwenImageInpaintPipeline": ("QwenImagePipeline", {}),
    "ZImagePipeline": (
        "",
        {
            **FLOW,
            "text_encoder": reader("Qwen3Model"),
            "tokenizer": chat_tokenizer,
            "vae": _FLUX_VAE,
            "transformer": (
                "ZImageTransformer2DModel",
                {
                    "in_channels": LATENTS,
                    "dim": 64,
                    "n_layers": 2,
                    "n_refiner_layers": 1,
                    "n_heads": 4,
                    "n_kv_heads": 4,
                    "cap_feat_dim": T5_WIDTH,
                    "axes_dims": [4, 6, 6],
                    "axes_lens": [256, 32, 32],
                },
            ),
        },
    ),
    "ZImageImg2ImgPipeline": ("ZImagePipeline", {}),
    "ZImageInpaintPipeline": ("ZImagePipeline", {}),
    "StableAudioPipeline": (
        "",
        {
            **T5,
            "scheduler": (
                "EDMDPMSolverMultistepScheduler",
                {"prediction_type": "v_prediction", "sigma_data": 1.0},
            ),
            "projection_model": (
                "StableAudioProjectionModel",
                {
                    "text_encoder_dim": T5_WIDTH,
                    "conditioning_dim": T5_WIDTH,
                    "min_value": 0,
                    "max_value": 32,
                },
            ),
            "vae": (
                "AutoencoderOobleck",
                {
                    "encoder_hidden_size": 8,
                    "downsampling_ratios": [1, 2],
                    "channel_multiples": [1, 2],
                    "decoder_channels": 8,
                    "decoder_input_channels": LATENTS,
                    "sampling_rate": 4,
                },
            ),
            "transformer": (
                "StableAudioDiTModel",
                {
                    **IN_AND_OUT,
                    **SMALL_HEADS,
                    "sample_size": 16,
                    "num_key_value_attention_heads": 2,
                    "cross_attention_dim": T5_WIDTH,
                    "cross_attention_input_dim": T5_WIDTH,
                    "time_proj_dim": 32,
                    "global_states_input_dim": 2 * T5_WIDTH,
                },
            ),
        },
    ),
    "DiTPipeline": (
        "",
        {
            **DDIM,
            "vae": vae(scaling_factor=0.18215),
            "transformer": (
                "DiTTransformer2DModel",
                {
                    **SMALL_HEADS,
                    "sample_size": 16,
                    "patch_size": 2,
                    "in_channels": LATENTS,
                    "out_channels": 2 * LATENTS,
                    "attention_bias": True,
                    "activation_fn": "gelu-approximate",
                    "num_embeds_ada_norm": 1000,
                    "norm_type": "ada_norm_zero",
                    "norm_elementwise_affine": False,
                },
            ),
        },
    ),
}
