"""The parts that tiny pipelines are put together from: UNet, VAE, text encoders, tokenizers."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import (
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        T5EncoderModel,
        T5TokenizerFast,
    )

LATENTS = 4
"""Channels of the latents, in every pipeline."""

CLIP_WIDTH, CLIP_LENGTH = 64, 77
T5_WIDTH, T5_LENGTH = 128, 512

_START, _END = "<|startoftext|>", "<|endoftext|>"
_PAD, _STOP, _UNKNOWN = "<pad>", "</s>", "<unk>"


def unet(**changes: Any) -> UNet2DConditionModel:
    """Build a UNet whose first level of two has cross-attention; `changes` are keys of its config.

    As in the first Stable Diffusion, the lowest level has none.
    """
    from diffusers import UNet2DConditionModel

    config = {
        "sample_size": 32,
        "in_channels": LATENTS,
        "out_channels": LATENTS,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "norm_num_groups": 16,
        "attention_head_dim": (2, 4),
        "cross_attention_dim": CLIP_WIDTH,
        "use_linear_projection": True,
    }
    return UNet2DConditionModel(**(config | changes))


def vae(
    *,
    scaling_factor: float,
    shift_factor: float | None = None,
    quant_conv: bool = True,
    channels: tuple[int, ...] = (16, 32),
) -> AutoencoderKL:
    """Build a VAE that halves the picture once less than it has levels."""
    from diffusers import AutoencoderKL

    levels = len(channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=channels,
        norm_num_groups=8,
        latent_channels=LATENTS,
        sample_size=64,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        use_quant_conv=quant_conv,
        use_post_quant_conv=quant_conv,
    )


def clip() -> CLIPTextModel:
    """Build the text encoder of the first Stable Diffusion."""
    from transformers import CLIPTextModel

    return CLIPTextModel(_clip_config("quick_gelu"))


def clip_with_projection() -> CLIPTextModelWithProjection:
    """Build the text encoder whose pooled output SDXL and SD3 use."""
    from transformers import CLIPTextModelWithProjection

    return CLIPTextModelWithProjection(_clip_config("gelu"))


def _clip_config(activation: str) -> Any:
    from transformers import CLIPTextConfig

    words = _clip_words()
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=CLIP_WIDTH,
        intermediate_size=2 * CLIP_WIDTH,
        projection_dim=CLIP_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CLIP_LENGTH,
        hidden_act=activation,
        bos_token_id=words[_START],
        eos_token_id=words[_END],
        pad_token_id=words[_END],
    )


def t5() -> T5EncoderModel:
    """Build the T5 encoder of SD3, FLUX and PixArt."""
    from transformers import T5Config, T5EncoderModel

    words = t5_words()
    return T5EncoderModel(
        T5Config(
            vocab_size=len(words),
            d_model=T5_WIDTH,
            d_kv=16,
            d_ff=T5_WIDTH,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            pad_token_id=words[_PAD],
            eos_token_id=words[_STOP],
        )
    )


def clip_tokenizer() -> CLIPTokenizer:
    """Build a CLIP tokenizer whose words are single bytes."""
    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory() as folder:
        _write(folder, "vocab.json", _clip_words())
        Path(folder, "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
        _write(folder, "tokenizer_config.json", {"model_max_length": CLIP_LENGTH})
        return CLIPTokenizer.from_pretrained(folder)


def t5_tokenizer() -> T5TokenizerFast:
    """Build a T5 tokenizer whose words are single letters; it needs no sentencepiece."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import T5TokenizerFast

    words = t5_words()
    scores = [(word, 0.0 if word in (_PAD, _STOP, _UNKNOWN) else -2.0) for word in words]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=words[_UNKNOWN]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", _STOP], special_tokens=[(_STOP, words[_STOP])]
    )
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(str(Path(folder, "tokenizer.json")))
        _write(
            folder,
            "tokenizer_config.json",
            {"model_max_length": T5_LENGTH, "extra_ids": 0, "additional_special_tokens": []},
        )
        return T5TokenizerFast.from_pretrained(folder)


def _clip_words() -> dict[str, int]:
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    last_letters = [f"{letter}</w>" for letter in letters]
    return {word: place for place, word in enumerate([*letters, *last_letters, _START, _END])}


def t5_words() -> dict[str, int]:
    """The words of the T5 tokenizer, and their numbers."""
    letters = map(chr, range(ord("!"), ord("~") + 1))
    return {word: place for place, word in enumerate([_PAD, _STOP, _UNKNOWN, "▁", *letters])}


def _write(folder: str, name: str, content: dict[str, Any]) -> None:
    Path(folder, name).write_text(json.dumps(content), encoding="utf-8")
