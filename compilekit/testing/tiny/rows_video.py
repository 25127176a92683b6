"""Families that draw videos."""

from __future__ import annotations

from typing import Any

from compilekit.testing.tiny.making import (
    DDIM,
    FLOW,
    IN_AND_OUT,
    SMALL_HEADS,
    T5,
    Row,
    changed,
    eye,
    reader,
    vae,
)
from compilekit.testing.tiny.parts import CLIP_WIDTH, LATENTS, T5_WIDTH


def _motion(**changes: Any) -> dict[str, Any]:
    config = {
        "block_out_channels": (32, 64),
        "motion_layers_per_block": 1,
        "motion_norm_num_groups": 16,
        "motion_num_attention_heads": 2,
    }
    return {"motion_adapter": ("MotionAdapter", config | changes)}


ROWS: dict[str, Row] = {
    "AnimateDiffPipeline": ("sd", _motion()),
    "AnimateDiffPAGPipeline": ("sd", _motion()),
    "AnimateDiffSDXLPipeline": ("sdxl", _motion()),
    "PIAPipeline": ("sd", _motion(conv_in_channels=2 * LATENTS + 1)),
    "TextToVideoSDPipeline": (
        "sd",
        {
            "unet": (
                "UNet3DConditionModel",
                {
                    "block_out_channels": (32, 64),
                    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
                    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
                    "layers_per_block": 1,
                    "norm_num_groups": 16,
                    "attention_head_dim": 16,
                    "cross_attention_dim": CLIP_WIDTH,
                },
            )
        },
    ),
    "StableVideoDiffusionPipeline": (
        "",
        {
            **eye("CLIPVisionModelWithProjection", CLIP_WIDTH, image_size=224, patch_size=32),
            "scheduler": (
                "EulerDiscreteScheduler",
                {
                    "prediction_type": "v_prediction",
                    "use_karras_sigmas": True,
                    "timestep_type": "continuous",
                    "sigma_min": 0.002,
                    "sigma_max": 700.0,
                },
            ),
            "vae": (
                "AutoencoderKLTemporalDecoder",
                {
                    "block_out_channels": (32, 32),
                    "down_block_types": ("DownEncoderBlock2D",) * 2,
                    "latent_channels": LATENTS,
                    "force_upcast": False,
                },
            ),
            "unet": (
                "UNetSpatioTemporalConditionModel",
                {
                    "block_out_channels": (32, 64),
                    "down_block_types": (
                        "CrossAttnDownBlockSpatioTemporal",
                        "DownBlockSpatioTemporal",
                    ),
                    "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
                    "layers_per_block": 1,
                    "num_attention_heads": (2, 4),
                    "addition_time_embed_dim": 8,
                    "projection_class_embeddings_input_dim": 24,
                    "cross_attention_dim": CLIP_WIDTH,
                },
            ),
        },
    ),
    "LTXPipeline": (
        "",
        {
            **T5,
            **FLOW,
            "transformer": (
                "LTXVideoTransformer3DModel",
                {
                    **SMALL_HEADS,
                    "in_channels": 8,
                    "out_channels": 8,
                    "cross_attention_dim": 64,
                    "caption_channels": T5_WIDTH,
                },
            ),
            "vae": (
                "AutoencoderKLLTXVideo",
                {
                    "latent_channels": 8,
                    "block_out_channels": (8, 8, 8, 8),
                    "decoder_block_out_channels": (8, 8, 8, 8),
                    "layers_per_block": (1, 1, 1, 1, 1),
                    "decoder_layers_per_block": (1, 1, 1, 1, 1),
                    "spatio_temporal_scaling": (True, True, False, False),
                    "decoder_spatio_temporal_scaling": (True, True, False, False),
                    "decoder_inject_noise": (False,) * 5,
                    "upsample_residual": (False,) * 4,
                    "upsample_factor": (1,) * 4,
                    "patch_size": 1,
                    "patch_size_t": 1,
                },
            ),
        },
    ),
    "LTXImageToVideoPipeline": ("LTXPipeline", {}),
    "LTXConditionPipeline": ("LTXPipeline", {}),
    "CogVideoXPipeline": (
        "",
        {
            **T5,
            "scheduler": ("CogVideoXDDIMScheduler", {}),
            "transformer": (
                "CogVideoXTransformer3DModel",
                {
                    **SMALL_HEADS,
                    **IN_AND_OUT,
                    "time_embed_dim": 8,
                    "text_embed_dim": T5_WIDTH,
                    "sample_width": 4,
                    "sample_height": 4,
                    "sample_frames": 9,
                    "max_text_seq_length": 16,
                },
            ),
            "vae": (
                "AutoencoderKLCogVideoX",
                {
                    "down_block_types": ("CogVideoXDownBlock3D",) * 4,
                    "up_block_types": ("CogVideoXUpBlock3D",) * 4,
                    "block_out_channels": (8, 8, 8, 8),
                    "latent_channels": LATENTS,
                    "layers_per_block": 1,
                    "norm_num_groups": 2,
                    "temporal_compression_ratio": 4,
                },
            ),
        },
    ),
    "CogVideoXImageToVideoPipeline": (
        "CogVideoXPipeline",
        {"transformer": changed("transformer", in_channels=2 * LATENTS)},
    ),
    "WanPipeline": (
        "",
        {
            **T5,
            **FLOW,
            "transformer": (
                "WanTransformer3DModel",
                {
                    "num_attention_heads": 4,
                    "attention_head_dim": 12,
                    "in_channels": 16,
                    "out_channels": 16,
                    "text_dim": T5_WIDTH,
                    "freq_dim": 32,
                    "ffn_dim": 64,
                    "num_layers": 2,
                    "cross_attn_norm": True,
                    "rope_max_seq_len": 32,
                },
            ),
            "vae": (
                "AutoencoderKLWan",
                {
                    "base_dim": 4,
                    "z_dim": 16,
                    "dim_mult": [1, 1, 1, 1],
                    "num_res_blocks": 1,
                    "temperal_downsample": [False, True, True],
                },
            ),
        },
    ),
    "MochiPipeline": (
        "",
        {
            **T5,
            **FLOW,
            "transformer": (
                "MochiTransformer3DModel",
                {
                    **SMALL_HEADS,
                    "pooled_projection_dim": 16,
                    "text_embed_dim": T5_WIDTH,
                    "time_embed_dim": 8,
                    "max_sequence_length": 16,
                },
            ),
            "vae": (
                "AutoencoderKLMochi",
                {
                    "encoder_block_out_channels": (32, 32, 32, 32),
                    "decoder_block_out_channels": (32, 32, 32, 32),
                    "layers_per_block": (1, 1, 1, 1, 1),
                },
            ),
        },
    ),
    "HunyuanVideoPipeline": (
        "flux",
        {
            **FLOW,
            "text_encoder_2": lambda components: components["text_encoder"],
            "tokenizer_2": lambda components: components["tokenizer"],
            "text_encoder": reader("LlamaModel", num_hidden_layers=3),
            "tokenizer": T5["tokenizer"],
            "transformer": (
                "HunyuanVideoTransformer3DModel",
                {
                    **IN_AND_OUT,
                    **SMALL_HEADS,
                    "num_single_layers": 2,
                    "num_refiner_layers": 1,
                    "text_embed_dim": T5_WIDTH,
                    "pooled_projection_dim": CLIP_WIDTH,
                    "rope_axes_dim": (4, 6, 6),
                },
            ),
            "vae": (
                "AutoencoderKLHunyuanVideo",
                {
                    "latent_channels": LATENTS,
                    "block_out_channels": (8, 8, 8, 8),
                    "layers_per_block": 1,
                    "norm_num_groups": 4,
                },
            ),
        },
    ),
    "LattePipeline": (
        "",
        {
            **T5,
            **DDIM,
            "vae": vae(scaling_factor=0.18215),
            "transformer": (
                "LatteTransformer3DModel",
                {
                    **SMALL_HEADS,
                    "sample_size": 32,
                    "patch_size": 2,
                    "caption_channels": T5_WIDTH,
                    "in_channels": LATENTS,
                    "out_channels": 2 * LATENTS,
                    "cross_attention_dim": 64,
                    "attention_bias": True,
                    "norm_type": "ada_norm_single",
                    "norm_elementwise_affine": False,
                },
            ),
        },
    ),
}
