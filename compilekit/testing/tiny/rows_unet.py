"""Families whose denoiser is a UNet, and draws pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compilekit.testing.tiny.making import (
    DDIM,
    T5,
    Parts,
    Row,
    changed,
    eye,
    made_of,
    scheduler,
    unet,
)
from compilekit.testing.tiny.parts import CLIP_WIDTH, LATENTS, T5_WIDTH


def _union(components: Parts) -> Any:
    halved = made_of("ControlNetUnionModel", "from_unet", "unet", **_HALVES)(components)
    narrow = changed("controlnet", num_trans_channel=32, num_proj_channel=32, num_trans_head=2)
    return narrow({"controlnet": halved})


_HALVES = {"conditioning_embedding_out_channels": (16, 32)}
"""What a ControlNet makes of its picture is half as large, as the VAE's latents are."""
_CONTROL = {"controlnet": made_of("ControlNetModel", "from_unet", "unet", **_HALVES)}
_UNION = {"controlnet": _union}
_XS = {
    "unet": changed("unet", layers_per_block=2),
    "controlnet": made_of("ControlNetXSAdapter", "from_unet", "unet", size_ratio=0.5, **_HALVES),
}
_LCM = {"scheduler": scheduler("LCMScheduler")}
_EULER = {"scheduler": scheduler("EulerDiscreteScheduler")}
_MARIGOLD: Row = ("sd", {"unet": unet(in_channels=2 * LATENTS)})


def _adapter(name: str, factor: int) -> dict[str, Any]:
    """A T2I-Adapter whose features are as large as those of the UNet's two levels."""
    config = {"channels": [32, 64], "num_res_blocks": 1, "downscale_factor": factor}
    return {"adapter": ("T2IAdapter", config | {"adapter_type": name})}


_PRIOR = ("prior", "image_encoder", "text_encoder", "tokenizer", "scheduler", "image_processor")


def _same(name: str) -> Callable[[Parts], Any]:
    return lambda components: components[name]


_IF_UNET = {
    "sample_size": 32,
    "layers_per_block": 1,
    "block_out_channels": (32, 64),
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "in_channels": 3,
    "out_channels": 6,
    "cross_attention_dim": 32,
    "encoder_hid_dim": T5_WIDTH,
    "attention_head_dim": 8,
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 2,
    "cross_attention_norm": "group_norm",
    "resnet_time_scale_shift": "scale_shift",
    "act_fn": "gelu",
    "norm_num_groups": 16,
}
_IF_SCHEDULER = ("DDPMScheduler", {"variance_type": "learned_range", "beta_schedule": "linear"})
_KANDINSKY_UNET = _IF_UNET | {
    "in_channels": LATENTS,
    "out_channels": 2 * LATENTS,
    "encoder_hid_dim": CLIP_WIDTH,
    "encoder_hid_dim_type": "image_proj",
    "addition_embed_type": "image",
    "cross_attention_norm": None,
}
_PIXEL_UNET = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "sample_size": 32,
    "norm_num_groups": 16,
    "attention_head_dim": 16,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
_MOVQ = (
    "VQModel",
    {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        "norm_type": "spatial",
        "latent_channels": LATENTS,
        "vq_embed_dim": LATENTS,
        "num_vq_embeddings": 16,
    },
)
_VQ = ("VQModel", {"block_out_channels": (16,), "norm_num_groups": 8, "num_vq_embeddings": 16})
_LOOK = eye("CLIPVisionModelWithProjection", CLIP_WIDTH)

ROWS: dict[str, Row] = {
    "StableDiffusionPAGPipeline": ("sd", {}),
    "StableDiffusionPAGImg2ImgPipeline": ("sd", {}),
    "StableDiffusionPAGInpaintPipeline": ("sd-inpaint", {}),
    "StableDiffusionControlNetPipeline": ("sd", _CONTROL),
    "StableDiffusionControlNetImg2ImgPipeline": ("sd", _CONTROL),
    "StableDiffusionControlNetInpaintPipeline": ("sd", _CONTROL),
    "StableDiffusionControlNetPAGPipeline": ("sd", _CONTROL),
    "StableDiffusionControlNetPAGInpaintPipeline": ("sd", _CONTROL),
    "StableDiffusionControlNetXSPipeline": ("sd", _XS),
    "StableDiffusionXLControlNetXSPipeline": ("sdxl", _XS),
    "StableDiffusionInstructPix2PixPipeline": ("sd", {"unet": unet(in_channels=2 * LATENTS)}),
    "StableDiffusionXLInstructPix2PixPipeline": (
        "sdxl",
        {"unet": changed("unet", in_channels=2 * LATENTS)},
    ),
    "StableDiffusionPanoramaPipeline": ("sd", {}),
    "SemanticStableDiffusionPipeline": ("sd", {}),
    "StableDiffusionImageVariationPipeline": ("sd", _LOOK),
    "StableDiffusionAdapterPipeline": ("sd", _adapter("full_adapter", 2)),
    "StableDiffusionXLAdapterPipeline": ("sdxl", _adapter("full_adapter_xl", 4)),
    "StableDiffusionUpscalePipeline": (
        "sd",
        {
            "unet": unet(in_channels=LATENTS + 3, num_class_embeds=1000),
            "low_res_scheduler": ("DDPMScheduler", {}),
        },
    ),
    "StableDiffusionLatentUpscalePipeline": (
        "sd",
        {
            "unet": unet(
                in_channels=2 * LATENTS,
                out_channels=LATENTS + 1,
                # Of the pooled prompt, and of the level of noise.
                time_cond_proj_dim=CLIP_WIDTH + 128,
            ),
            **_EULER,
        },
    ),
    "MarigoldDepthPipeline": _MARIGOLD,
    "MarigoldNormalsPipeline": _MARIGOLD,
    "MarigoldIntrinsicsPipeline": (
        "sd",
        {
            "unet": unet(in_channels=3 * LATENTS, out_channels=2 * LATENTS),
            "target_properties": {"target_names": ["albedo", "roughness"]},
        },
    ),
    "LatentConsistencyModelPipeline": (
        "sd",
        {"unet": unet(time_cond_proj_dim=32), **_LCM},
    ),
    "LatentConsistencyModelImg2ImgPipeline": ("LatentConsistencyModelPipeline", {}),
    "StableDiffusionXLImg2ImgPipeline": ("sdxl", {}),
    "StableDiffusionXLInpaintPipeline": ("sdxl", {}),
    "StableDiffusionXLPAGPipeline": ("sdxl", {}),
    "StableDiffusionXLPAGImg2ImgPipeline": ("sdxl", {}),
    "StableDiffusionXLPAGInpaintPipeline": ("sdxl", {}),
    "StableDiffusionXLControlNetPipeline": ("sdxl", _CONTROL),
    "StableDiffusionXLControlNetImg2ImgPipeline": ("sdxl", _CONTROL),
    "StableDiffusionXLControlNetInpaintPipeline": ("sdxl", _CONTROL),
    "StableDiffusionXLControlNetPAGPipeline": ("sdxl", _CONTROL),
    "StableDiffusionXLControlNetPAGImg2ImgPipeline": ("sdxl", _CONTROL),
    "StableDiffusionXLControlNetUnionPipeline": ("sdxl", _UNION),
    "StableDiffusionXLControlNetUnionImg2ImgPipeline": ("sdxl", _UNION),
    "StableDiffusionXLControlNetUnionInpaintPipeline": ("sdxl", _UNION),
    "IFPipeline": (
        "",
        {**T5, "unet": ("UNet2DConditionModel", _IF_UNET), "scheduler": _IF_SCHEDULER},
    ),
    "IFImg2ImgPipeline": ("IFPipeline", {}),
    "IFInpaintingPipeline": ("IFPipeline", {}),
    "IFSuperResolutionPipeline": (
        "IFPipeline",
        {
            "unet": (
                "UNet2DConditionModel",
                {**_IF_UNET, "in_channels": 6, "class_embed_type": "timestep"},
            ),
            "image_noising_scheduler": ("DDPMScheduler", {}),
        },
    ),
    "IFImg2ImgSuperResolutionPipeline": ("IFSuperResolutionPipeline", {}),
    "IFInpaintingSuperResolutionPipeline": ("IFSuperResolutionPipeline", {}),
    "KandinskyV22PriorPipeline": (
        "sd3",
        {
            "prior": (
                "PriorTransformer",
                {
                    "num_attention_heads": 2,
                    "attention_head_dim": 16,
                    "num_layers": 2,
                    "embedding_dim": CLIP_WIDTH,
                },
            ),
            **_LOOK,
            "image_processor": _LOOK["feature_extractor"],
            "scheduler": ("UnCLIPScheduler", {"prediction_type": "sample"}),
        },
    ),
    "KandinskyV22PriorEmb2EmbPipeline": ("KandinskyV22PriorPipeline", {}),
    "KandinskyPriorPipeline": ("KandinskyV22PriorPipeline", {}),
    "KandinskyV22CombinedPipeline": (
        "KandinskyV22PriorPipeline",
        {
            **{f"prior_{name}": _same(name) for name in _PRIOR},
            "unet": ("UNet2DConditionModel", _KANDINSKY_UNET),
            "movq": _MOVQ,
            "scheduler": _IF_SCHEDULER,
        },
    ),
    "KandinskyV22Img2ImgCombinedPipeline": ("KandinskyV22CombinedPipeline", {}),
    "KandinskyV22InpaintCombinedPipeline": (
        "KandinskyV22CombinedPipeline",
        {"unet": changed("unet", in_channels=2 * LATENTS + 1)},
    ),
    "Kandinsky3Pipeline": (
        "",
        {
            **T5,
            **DDIM,
            "unet": (
                "Kandinsky3UNet",
                {
                    "time_embedding_dim": 32,
                    "groups": 16,
                    "attention_head_dim": 16,
                    "layers_per_block": 2,
                    "block_out_channels": (32, 64),
                    "cross_attention_dim": 32,
                    "encoder_hid_dim": T5_WIDTH,
                },
            ),
            "movq": _MOVQ,
        },
    ),
    "Kandinsky3Img2ImgPipeline": ("Kandinsky3Pipeline", {}),
    "DDPMPipeline": (
        "",
        {"scheduler": ("DDPMScheduler", {}), "unet": ("UNet2DModel", _PIXEL_UNET)},
    ),
    "DDIMPipeline": ("DDPMPipeline", {"scheduler": ("DDIMScheduler", {})}),
    "PNDMPipeline": ("DDPMPipeline", {"scheduler": ("PNDMScheduler", {"skip_prk_steps": True})}),
    "ScoreSdeVePipeline": ("DDPMPipeline", {"scheduler": ("ScoreSdeVeScheduler", {})}),
    "KarrasVePipeline": ("DDPMPipeline", {"scheduler": ("KarrasVeScheduler", {})}),
    "RePaintPipeline": ("DDPMPipeline", {"scheduler": ("RePaintScheduler", {})}),
    "ConsistencyModelPipeline": (
        "DDPMPipeline",
        {"scheduler": ("CMStochasticIterativeScheduler", {})},
    ),
    "LDMPipeline": ("DDIMPipeline", {"vqvae": _VQ}),
    "LDMSuperResolutionPipeline": (
        "LDMPipeline",
        {"unet": changed("unet", in_channels=6)},
    ),
}
