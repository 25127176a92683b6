"""Tiny pipelines of the workloads' classes, saved into folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from compilekit.testing import tiny_pipeline
from compilekit.testing.tiny import parts
from compilekit.testing.tiny.parts import CLIP_WIDTH

GUIDANCE_WIDTH = 32


def saved(name: str, folder: Path) -> Path:
    """Make a pipeline, and save it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = MAKERS[name]()
    for component in pipeline.components.values():
        if hasattr(component, "eval"):
            component.eval()
    pipeline.save_pretrained(folder / name)
    return folder / name


def _euler() -> Any:
    from diffusers import EulerDiscreteScheduler

    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )


def _sdxl() -> Any:
    pipeline = tiny_pipeline("sdxl")
    pipeline.scheduler = _euler()
    return pipeline


def _refiner() -> Any:
    from diffusers import StableDiffusionXLImg2ImgPipeline

    base = tiny_pipeline("sdxl", seed=1)
    config = {**base.unet.config, "cross_attention_dim": CLIP_WIDTH}
    config["projection_class_embeddings_input_dim"] = CLIP_WIDTH + 5 * 8
    return StableDiffusionXLImg2ImgPipeline(
        unet=type(base.unet).from_config(config),
        vae=tiny_pipeline("sdxl").vae,
        text_encoder=None,
        text_encoder_2=base.text_encoder_2,
        tokenizer=None,
        tokenizer_2=base.tokenizer_2,
        scheduler=_euler(),
        requires_aesthetics_score=True,
        add_watermarker=False,
    )


def _lcm() -> Any:
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    base = tiny_pipeline("sd")
    return LatentConsistencyModelPipeline(
        unet=parts.unet(time_cond_proj_dim=GUIDANCE_WIDTH),
        vae=base.vae,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        scheduler=LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def lcm_unet(folder: Path) -> Path:
    """A UNet of SDXL's shape that was distilled: it takes the guidance as an input."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        base = tiny_pipeline("sdxl").unet
        config = {key: value for key, value in base.config.items() if key[:1] != "_"}
        unet = type(base)(**{**config, "time_cond_proj_dim": GUIDANCE_WIDTH})
    unet.save_pretrained(folder / "distilled")
    return folder / "distilled"


def _controlnet(kind: str) -> Any:
    import diffusers

    base = tiny_pipeline(kind)
    net = diffusers.ControlNetModel.from_unet(
        base.unet, conditioning_embedding_out_channels=(16, 32)
    )
    for parameter in net.parameters():
        # What a fresh one adds is zero.
        parameter.data += 0.01 * torch.randn_like(parameter)
    name = "StableDiffusionControlNetPipeline"
    if kind == "sdxl":
        name = "StableDiffusionXLControlNetPipeline"
        base.scheduler = _euler()
    extra = (
        {"add_watermarker": False}
        if kind == "sdxl"
        else {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    )
    own = {k: v for k, v in base.components.items() if v is not None}
    own = {k: v for k, v in own.items() if k not in extra}
    return getattr(diffusers, name)(**own, **extra, controlnet=net)


def lora(folder: Path, *, seed: int = 0) -> Path:
    """An adapter for the UNet of the tiny Stable Diffusion."""
    from safetensors.torch import save_file

    unet = tiny_pipeline("sd").unet
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in unet.named_modules():
        if name.endswith(("to_q", "to_k", "to_v")):
            for side, shape in (("A", (4, module.in_features)), ("B", (module.out_features, 4))):
                tensor = 0.3 * torch.randn(shape, generator=generator)
                tensors[f"unet.{name}.lora_{side}.weight"] = tensor
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter.safetensors")
    return folder


def _with_image_encoder() -> Any:
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    base = tiny_pipeline("sd")
    base.register_modules(
        image_encoder=CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=32,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=32,
                patch_size=8,
                projection_dim=CLIP_WIDTH,
            )
        ),
        feature_extractor=CLIPImageProcessor(size=32, crop_size=32),
    )
    return base


def ip_adapter(folder: Path) -> Path:
    """An adapter for image prompts, of the kind that takes embeddings."""
    from safetensors.torch import save_file

    unet = tiny_pipeline("sd").unet
    generator = torch.Generator().manual_seed(5)

    def some(*shape: int) -> torch.Tensor:
        return 0.2 * torch.randn(shape, generator=generator)

    tensors = {
        "image_proj.proj.weight": some(4 * CLIP_WIDTH, CLIP_WIDTH),
        "image_proj.proj.bias": some(4 * CLIP_WIDTH),
        "image_proj.norm.weight": 1 + some(CLIP_WIDTH),
        "image_proj.norm.bias": some(CLIP_WIDTH),
    }
    number = 1
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            for which in ("k", "v"):
                width = module.to_q.out_features
                key = f"ip_adapter.{number}.to_{which}_ip.weight"
                tensors[key] = some(width, CLIP_WIDTH)
            number += 2
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "ip.safetensors")
    return folder


def spoil(folder: Path, part: str, change: Any) -> None:
    """Change the weights of a saved part in place."""
    from safetensors.torch import load_file, save_file

    (path,) = (folder / part).glob("*.safetensors")
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def set_config(folder: Path, part: str, **changes: Any) -> None:
    """Change the config of a saved part in place."""
    path = folder / part / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(config), encoding="utf-8")


MAKERS = {
    "sd": lambda: tiny_pipeline("sd"),
    "inpaint": lambda: tiny_pipeline("sd-inpaint"),
    "sdxl": _sdxl,
    "refiner": _refiner,
    "lcm": _lcm,
    "controlnet": lambda: _controlnet("sd"),
    "controlnet-xl": lambda: _controlnet("sdxl"),
    "image-prompt": _with_image_encoder,
}
