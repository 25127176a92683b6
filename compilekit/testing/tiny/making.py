"""What the rows of the table of families are made of: functions of the components so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from compilekit.testing.tiny import parts
from compilekit.testing.tiny.parts import LATENTS, T5_WIDTH

Parts = Mapping[str, Any]
Row = tuple[str, Mapping[str, Any]]


def made_of(name: str, method: str, source: str, **settings: Any) -> Callable[[Parts], Any]:
    """A diffusers class made from another component: a ControlNet, from a UNet."""

    def make(components: Parts) -> Any:
        import diffusers

        return getattr(getattr(diffusers, name), method)(components[source], **settings)

    return make


def scheduler(name: str, **settings: Any) -> Callable[[Parts], Any]:
    """A scheduler with the settings of the family's own."""

    def make(components: Parts) -> Any:
        import diffusers

        return getattr(diffusers, name).from_config(components["scheduler"].config, **settings)

    return make


def changed(source: str, **changes: Any) -> Callable[[Parts], Any]:
    """A component again, with another config: `changed("unet", in_channels=8)`."""

    def make(components: Parts) -> Any:
        module = components[source]
        # `from_config` takes the defaults of the class for whatever the first was not given.
        config = {name: value for name, value in module.config.items() if name[0] != "_"}
        return type(module)(**config | changes)

    return make


def unet(**changes: Any) -> Callable[[Parts], Any]:
    """The UNet of the first Stable Diffusion, with other keys in its config."""
    return lambda _: parts.unet(**changes)


def vae(**settings: Any) -> Callable[[Parts], Any]:
    """A VAE, with the scaling factor of the family's own."""
    return lambda _: parts.vae(**settings)


def reader(name: str, **config: Any) -> tuple[str, dict[str, Any]]:
    """A text encoder of transformers, for the words of the T5 tokenizer."""
    sizes = {
        "vocab_size": len(parts.t5_words()),
        "hidden_size": T5_WIDTH,
        "intermediate_size": T5_WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }
    return name, sizes | config


def chat_tokenizer(_: Parts) -> Any:
    """The T5 tokenizer, with a template for chats that leaves the message as it is."""
    tokenizer = parts.t5_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    return tokenizer


def eye(name: str, width: int, **config: Any) -> dict[str, Any]:
    """An image encoder of transformers, and what makes its pictures ready."""
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "projection_dim": width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    ready = ("CLIPImageProcessor", {"size": 32, "crop_size": 32})
    return {"image_encoder": (name, sizes | config), "feature_extractor": ready}


T5 = {"text_encoder": lambda _: parts.t5(), "tokenizer": lambda _: parts.t5_tokenizer()}
FLOW = {"scheduler": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0})}
DDIM = {"scheduler": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False})}
PIXART_VAE = vae(scaling_factor=0.13025)
SMALL_HEADS = {"num_attention_heads": 4, "attention_head_dim": 16, "num_layers": 2}
IN_AND_OUT = {"in_channels": LATENTS, "out_channels": LATENTS}
