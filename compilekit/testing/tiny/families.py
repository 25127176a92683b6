"""The classes that `tiny_pipeline` builds by name: a table of families.

A class takes the components of one of the kinds, or of another class in the table, by the names
of its arguments. A row has the components that are others: a diffusers class with its arguments,
or a function of the components so far.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from compilekit.testing.tiny import parts
from compilekit.testing.tiny.parts import CLIP_WIDTH, LATENTS, T5_WIDTH

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Parts = Mapping[str, Any]
Row = tuple[str, Mapping[str, Any]]


def build(name: str, kind: Callable[[str], Any]) -> DiffusionPipeline:
    """Build a pipeline of a class in the table; `kind` builds one of the kinds."""
    import diffusers

    pipeline_class = getattr(diffusers, name)
    takes = inspect.signature(pipeline_class.__init__).parameters
    components = _components(name, kind)
    given = {key: value for key, value in components.items() if key in takes}
    for key, parameter in takes.items():
        if key not in given and key != "self" and parameter.default is parameter.empty:
            given[key] = None
    if "requires_safety_checker" in takes:
        given["requires_safety_checker"] = False
    pipeline: DiffusionPipeline = pipeline_class(**given)
    for module in pipeline.components.values():
        _wake(module)
    return pipeline


def _components(name: str, kind: Callable[[str], Any]) -> dict[str, Any]:
    base, others = FAMILIES.get(name, ("", {}))
    if base in FAMILIES:
        components = _components(base, kind)
    else:
        components = dict(kind(base).components) if base else {}
    for key, part in others.items():
        components[key] = part(components) if callable(part) else _made(part)
    return components


def _made(part: Any) -> Any:
    import diffusers

    if not isinstance(part, tuple):
        return part
    name, config = part
    return getattr(diffusers, name)(**config)


def _wake(module: Any) -> None:
    """Give weights that start as zeros random ones: what they multiply would not matter."""
    for weight in getattr(module, "parameters", list)():
        if weight.dim() > 1 and not weight.any():
            weight.data.normal_(std=0.05)


def _of(name: str, method: str, source: str, **settings: Any) -> Callable[[Parts], Any]:
    """A diffusers class made from another component: a ControlNet, from a UNet."""

    def make(components: Parts) -> Any:
        import diffusers

        return getattr(getattr(diffusers, name), method)(components[source], **settings)

    return make


def _scheduler(name: str, **settings: Any) -> Callable[[Parts], Any]:
    """A scheduler with the settings of the family's own."""

    def make(components: Parts) -> Any:
        import diffusers

        return getattr(diffusers, name).from_config(components["scheduler"].config, **settings)

    return make


def _again(module: Any, **changes: Any) -> Any:
    """A module of the same class, with another config."""
    # `from_config` takes the defaults of the class for whatever the first was not given.
    config = {name: value for name, value in module.config.items() if name[0] != "_"}
    return type(module)(**config | changes)


def _union(components: Parts) -> Any:
    from diffusers import ControlNetUnionModel

    wide = ControlNetUnionModel.from_unet(components["unet"], **_HALVES)
    return _again(wide, num_trans_channel=32, num_proj_channel=32, num_trans_head=2)


_HALVES = {"conditioning_embedding_out_channels": (16, 32)}
"""What a ControlNet makes of its picture is half as large, as the VAE's latents are."""
_CONTROL = {"controlnet": _of("ControlNetModel", "from_unet", "unet", **_HALVES)}
_UNION = {"controlnet": _union}
_MOTION = {
    "motion_adapter": (
        "MotionAdapter",
        {
            "block_out_channels": (32, 64),
            "motion_layers_per_block": 1,
            "motion_norm_num_groups": 16,
            "motion_num_attention_heads": 2,
        },
    ),
}
_LCM = {"scheduler": _scheduler("LCMScheduler")}
_FLUX_CONTROL = {
    "controlnet": _of(
        "FluxControlNetModel",
        "from_transformer",
        "transformer",
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=4,
    )
}
_SD3_CONTROL = {
    "controlnet": _of(
        "SD3ControlNetModel",
        "from_transformer",
        "transformer",
        num_layers=2,
        num_extra_conditioning_channels=0,
    )
}


def _unet(**changes: Any) -> Callable[[Parts], Any]:
    return lambda _: parts.unet(**changes)


def _sd_like(**config: Any) -> Row:
    return "sd", {"unet": _unet(**config)}


def _flux_in(channels: int) -> dict[str, Any]:
    """FLUX's transformer, with more channels in: those of a condition beside the latents."""

    def make(components: Parts) -> Any:
        transformer = components["transformer"]
        out = transformer.config.in_channels
        return _again(transformer, in_channels=channels, out_channels=out)

    return {"transformer": make}


def _t5(components: Parts) -> Any:
    del components
    return parts.t5()


def _t5_tokenizer(components: Parts) -> Any:
    del components
    return parts.t5_tokenizer()


_T5 = {"text_encoder": _t5, "tokenizer": _t5_tokenizer}
_FLOW = {"scheduler": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0})}
_DDIM = {"scheduler": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False})}

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

FAMILIES: dict[str, Row] = {
    "StableDiffusionPAGPipeline": ("sd", {}),
    "StableDiffusionPAGImg2ImgPipeline": ("sd", {}),
    "StableDiffusionPAGInpaintPipeline": ("sd-inpaint", {}),
    "StableDiffusionControlNetPipeline": ("sd", _CONTROL),
    "StableDiffusionControlNetImg2ImgPipeline": ("sd", _CONTROL),
    "StableDiffusionControlNetInpaintPipeline": ("sd", _CONTROL),
    "StableDiffusionControlNetPAGPipeline": ("sd", _CONTROL),
    "StableDiffusionControlNetPAGInpaintPipeline": ("sd", _CONTROL),
    "StableDiffusionInstructPix2PixPipeline": _sd_like(in_channels=2 * LATENTS),
    "StableDiffusionPanoramaPipeline": ("sd", {}),
    "StableDiffusionUpscalePipeline": (
        "sd",
        {
            "unet": _unet(in_channels=LATENTS + 3, num_class_embeds=1000),
            "low_res_scheduler": ("DDPMScheduler", {}),
        },
    ),
    "LatentConsistencyModelPipeline": (
        "sd",
        {"unet": _unet(time_cond_proj_dim=32), **_LCM},
    ),
    "LatentConsistencyModelImg2ImgPipeline": ("LatentConsistencyModelPipeline", {}),
    "AnimateDiffPipeline": ("sd", _MOTION),
    "AnimateDiffPAGPipeline": ("sd", _MOTION),
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
    "StableDiffusion3Img2ImgPipeline": ("sd3", {}),
    "StableDiffusion3PAGPipeline": ("sd3", {}),
    "StableDiffusion3PAGImg2ImgPipeline": ("sd3", {}),
    "StableDiffusion3ControlNetPipeline": ("sd3", _SD3_CONTROL),
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
                    "in_channels": 4 * LATENTS,
                    "num_layers": 2,
                    "num_single_layers": 2,
                    "num_attention_heads": 4,
                    "attention_head_dim": 16,
                    "joint_attention_dim": T5_WIDTH,
                    "axes_dims_rope": (4, 6, 6),
                    "approximator_hidden_dim": 32,
                    "approximator_layers": 1,
                    "approximator_num_channels": 16,
                },
            ),
            **_T5,
        },
    ),
    "ChromaImg2ImgPipeline": ("ChromaPipeline", {}),
    "IFPipeline": (
        "",
        {**_T5, "unet": ("UNet2DConditionModel", _IF_UNET), "scheduler": _IF_SCHEDULER},
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
    "LTXPipeline": (
        "",
        {
            **_T5,
            **_FLOW,
            "transformer": (
                "LTXVideoTransformer3DModel",
                {
                    "in_channels": 8,
                    "out_channels": 8,
                    "num_attention_heads": 4,
                    "attention_head_dim": 16,
                    "cross_attention_dim": 64,
                    "num_layers": 2,
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
            **_T5,
            "scheduler": ("CogVideoXDDIMScheduler", {}),
            "transformer": (
                "CogVideoXTransformer3DModel",
                {
                    "num_attention_heads": 4,
                    "attention_head_dim": 16,
                    "in_channels": LATENTS,
                    "out_channels": LATENTS,
                    "time_embed_dim": 8,
                    "text_embed_dim": T5_WIDTH,
                    "num_layers": 2,
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
    "WanPipeline": (
        "",
        {
            **_T5,
            **_FLOW,
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
    "AuraFlowPipeline": (
        "",
        {
            **_T5,
            **_FLOW,
            "vae": lambda _: parts.vae(scaling_factor=0.13025),
            "transformer": (
                "AuraFlowTransformer2DModel",
                {
                    "sample_size": 32,
                    "in_channels": LATENTS,
                    "out_channels": LATENTS,
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
            **_T5,
            "scheduler": ("CogVideoXDDIMScheduler", {}),
            "vae": lambda _: parts.vae(scaling_factor=0.13025),
            "transformer": (
                "CogView3PlusTransformer2DModel",
                {
                    "in_channels": LATENTS,
                    "out_channels": LATENTS,
                    "num_layers": 2,
                    "attention_head_dim": 16,
                    "num_attention_heads": 4,
                    "text_embed_dim": T5_WIDTH,
                    "time_embed_dim": 32,
                    "condition_dim": 8,
                    "pos_embed_max_size": 32,
                },
            ),
        },
    ),
    "LattePipeline": (
        "",
        {
            **_T5,
            **_DDIM,
            "vae": lambda _: parts.vae(scaling_factor=0.18215),
            "transformer": (
                "LatteTransformer3DModel",
                {
                    "sample_size": 32,
                    "num_layers": 2,
                    "patch_size": 2,
                    "attention_head_dim": 16,
                    "num_attention_heads": 4,
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
    "DDPMPipeline": (
        "",
        {
            "scheduler": ("DDPMScheduler", {}),
            "unet": (
                "UNet2DModel",
                {
                    "block_out_channels": (32, 64),
                    "layers_per_block": 1,
                    "sample_size": 32,
                    "norm_num_groups": 16,
                    "attention_head_dim": 16,
                    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
                    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
                },
            ),
        },
    ),
    "DDIMPipeline": ("DDPMPipeline", {"scheduler": ("DDIMScheduler", {})}),
    "DiTPipeline": (
        "",
        {
            **_DDIM,
            "vae": lambda _: parts.vae(scaling_factor=0.18215),
            "transformer": (
                "DiTTransformer2DModel",
                {
                    "sample_size": 16,
                    "num_layers": 2,
                    "patch_size": 2,
                    "attention_head_dim": 16,
                    "num_attention_heads": 4,
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
"""Each class: the kind or class whose components it takes, and those that are others."""
