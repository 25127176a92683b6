"""Train the demo's model: a Stable Diffusion of six megabytes that draws coloured shapes.

    python demo/train.py            # about eleven minutes of CPU time; writes demo/model

The pictures are drawn by formula (a circle, square, triangle or star on a soft background),
so nothing is downloaded. A VAE learns to put 64x64 pixels into 16x16 latents; then a UNet and
a CLIP text encoder learn together, from scratch, to denoise those latents for a caption.
The result is an ordinary diffusers folder, with float16 weights of UNet and VAE:

    pipeline = DiffusionPipeline.from_pretrained("demo/model")
    pipeline("a large blue triangle", num_inference_steps=20, guidance_scale=3).images[0]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SIDE = 64
COLOURS = {
    "red": (0.86, 0.13, 0.14),
    "orange": (0.98, 0.52, 0.06),
    "yellow": (0.98, 0.84, 0.13),
    "green": (0.13, 0.62, 0.24),
    "blue": (0.12, 0.32, 0.86),
    "purple": (0.50, 0.18, 0.68),
}
SHAPES = ("circle", "square", "triangle", "star")
SIZES = {"small": (0.26, 0.34), "": (0.38, 0.50), "large": (0.54, 0.66)}

LATENTS = 4
WIDTH = 64
"""Features of a word."""
WORDS = 32
"""Length of a prompt, in tokens."""
UNPROMPTED = 0.1
"""The share of the pictures that the UNet sees without their caption."""
START, END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True)
class Budget:
    """How long to train: counted in steps, not seconds, so that a seed decides the weights."""

    vae_steps: int = 400
    vae_batch: int = 16
    unet_steps: int = 1200
    unet_batch: int = 32
    pictures: int = 8192


# The pictures -----------------------------------------------------------------------------


def draw(count: int) -> tuple[torch.Tensor, list[str]]:
    """Draw `count` random pictures, in -1..1, and their captions."""
    sizes, colours = list(SIZES), list(COLOURS)
    size, colour = torch.randint(len(sizes), (count,)), torch.randint(len(colours), (count,))
    shape = torch.randint(len(SHAPES), (count,))
    low, high = torch.tensor([SIZES[name] for name in sizes])[size].T
    radius = _column(low + (high - low) * torch.rand(count))
    x, y = _grid(count, radius)

    inside = _smooth(_distance(x, y, radius, shape))
    shadow = _smooth(_distance(x - 0.05, y - 0.08, radius, shape), softness=0.08)
    paint = torch.tensor([COLOURS[name] for name in colours])[colour][:, :, None, None]
    paint = paint * (1 - 0.25 * (x + y)[:, None] / radius[:, None]).clamp(0.75, 1.2)
    picture = _background(count) * (1 - 0.3 * shadow[:, None])
    picture = torch.lerp(picture, paint.clamp(0, 1), inside[:, None])

    chosen = zip(size.tolist(), colour.tolist(), shape.tolist(), strict=True)
    return picture * 2 - 1, [_caption(sizes[s], colours[c], SHAPES[k]) for s, c, k in chosen]


def _caption(size: str, colour: str, shape: str) -> str:
    words = " ".join(filter(None, (size, colour, shape)))
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _grid(count: int, radius: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates of every pixel as its shape sees them: moved, and turned a little."""
    axis = torch.linspace(-1, 1, SIDE)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    room = (0.85 - radius).clamp(min=0.05) * 0.6
    x = x - room * (2 * _column(torch.rand(count)) - 1)
    y = y - room * (2 * _column(torch.rand(count)) - 1)
    turn = 0.15 * _column(torch.randn(count))
    return x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()


def _distance(
    x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor, shape: torch.Tensor
) -> torch.Tensor:
    """How far each pixel is outside of its shape; negative inside."""
    circle = torch.hypot(x, y) - radius
    square = torch.maximum(x.abs(), y.abs()) - 0.84 * radius
    slope = x.abs() * 0.866 - y * 0.5
    triangle = torch.maximum(slope, y) - 0.55 * radius
    fifth = 2 * torch.pi / 5
    angle = (torch.atan2(x, -y).remainder(fifth) - fifth / 2).abs()
    # In a fifth of the star, seen from its notch: one straight edge from the notch to the tip.
    along, across = torch.hypot(x, y) * angle.cos(), torch.hypot(x, y) * angle.sin()
    notch, tip_x, tip_y = 0.52, 1.15 * 0.809, 1.15 * 0.588
    edge_x, edge_y = tip_x - notch, tip_y
    star = (edge_y * (along - notch * radius) - edge_x * across) / (edge_x**2 + edge_y**2) ** 0.5
    every = torch.stack([circle, square, triangle, star])
    return every.gather(0, shape[None, :, None, None].expand(1, *x.shape))[0]


def _smooth(distance: torch.Tensor, softness: float = 0.012) -> torch.Tensor:
    return torch.sigmoid(-distance / softness)


def _background(count: int) -> torch.Tensor:
    top, bottom = 0.72 + 0.26 * torch.rand(2, count, 3, 1, 1)
    return torch.lerp(top, bottom, torch.linspace(0, 1, SIDE)[:, None].expand(SIDE, SIDE))


def _column(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None]


# The parts --------------------------------------------------------------------------------


def build_tokenizer() -> CLIPTokenizer:
    """Build a CLIP tokenizer that knows the captions' words, and spells out all others."""
    words = ["a", "an", *filter(None, SIZES), *COLOURS, *SHAPES]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=4096, end_of_word_suffix="</w>", show_progress=False, min_frequency=1
    )
    learner.train_from_iterator(words, trainer)
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += dict.fromkeys("".join(merge) for merge in merges)
    vocabulary = {token: place for place, token in enumerate([*tokens, START, END])}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(merge) for merge in merges), ""]
        Path(folder, "merges.txt").write_text("\n".join(lines), encoding="utf-8")
        config = json.dumps({"model_max_length": WORDS})
        Path(folder, "tokenizer_config.json").write_text(config, encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=WORDS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 16, 32),
        norm_num_groups=8,
        latent_channels=LATENTS,
        sample_size=SIDE,
        force_upcast=False,
    )


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIDE // 4,
        in_channels=LATENTS,
        out_channels=LATENTS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 128),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
        use_linear_projection=True,
    )


def build_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


# The training -----------------------------------------------------------------------------


def train_vae(vae: AutoencoderKL, budget: Budget) -> None:
    """Train the VAE on fresh pictures, each seen once."""
    optimiser, schedule = _optimiser(vae.parameters(), 3e-3, budget.vae_steps)
    for step in _steps("vae", budget.vae_steps):
        pictures, _ = draw(budget.vae_batch)
        posterior = vae.encode(_nhwc(pictures)).latent_dist
        rebuilt = vae.decode(posterior.sample()).sample
        error = functional.l1_loss(rebuilt, pictures) + functional.mse_loss(rebuilt, pictures)
        loss = error + 1e-4 * posterior.kl().mean() / posterior.mean[0].numel()
        _update(optimiser, schedule, loss)
        step(error)


def encode(vae: AutoencoderKL, budget: Budget) -> tuple[torch.Tensor, list[str]]:
    """Draw the UNet's pictures, and encode them; sets the VAE's scaling factor as well."""
    latents, captions = [], []
    for _ in range(budget.pictures // 64):
        pictures, texts = draw(64)
        with torch.no_grad():
            latents.append(vae.encode(_nhwc(pictures)).latent_dist.sample())
        captions += texts
    together = torch.cat(latents)
    scale = round(1 / together.std().item(), 5)
    vae.register_to_config(scaling_factor=scale)
    return together * scale, captions


def train_unet(pipeline: StableDiffusionPipeline, budget: Budget) -> None:
    """Train the UNet and the text encoder together, for velocities (v-prediction)."""
    unet, text_encoder, scheduler = pipeline.unet, pipeline.text_encoder, pipeline.scheduler
    latents, captions = encode(pipeline.vae, budget)
    tokens = pipeline.tokenizer(
        [*captions, ""], padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    weights = [*unet.parameters(), *text_encoder.parameters()]
    optimiser, schedule = _optimiser(weights, 2e-3, budget.unet_steps)
    for step in _steps("unet", budget.unet_steps):
        chosen = torch.randint(len(captions), (budget.unet_batch,))
        clean, noise = latents[chosen], torch.randn(budget.unet_batch, *latents.shape[1:])
        # The last row is the empty prompt, which guidance needs.
        said = torch.where(torch.rand(budget.unet_batch) < UNPROMPTED, len(captions), chosen)
        times = torch.randint(scheduler.config.num_train_timesteps, (budget.unet_batch,))
        noisy = scheduler.add_noise(clean, noise, times)
        target = scheduler.get_velocity(clean, noise, times)
        predicted = unet(_nhwc(noisy), times, text_encoder(tokens[said])[0]).sample
        loss = functional.mse_loss(predicted, target)
        _update(optimiser, schedule, loss)
        step(loss)


def _optimiser(weights: Any, rate: float, steps: int) -> tuple[Any, Any]:
    optimiser = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.1)
    return optimiser, schedule


def _update(optimiser: Any, schedule: Any, loss: torch.Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], 1.0)
    optimiser.step()
    schedule.step()


def _steps(name: str, count: int) -> Iterator[Any]:
    """Count the steps, and print a line for each twentieth of them."""
    begun, losses = time.perf_counter(), []
    for number in range(1, count + 1):
        yield lambda loss: losses.append(float(loss.detach()))
        if number % max(1, count // 20) == 0:
            loss, seconds = sum(losses) / len(losses), time.perf_counter() - begun
            print(f"{name} {number}/{count}: {loss:.4f} ({seconds:.0f} s)", flush=True)
            losses.clear()


def _nhwc(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.contiguous(memory_format=torch.channels_last)


# ------------------------------------------------------------------------------------------


def train(budget: Budget, seed: int) -> StableDiffusionPipeline:
    """Put the pipeline together, and train everything in it."""
    torch.manual_seed(seed)
    vae, unet, tokenizer = build_vae(), build_unet(), build_tokenizer()
    pipeline = StableDiffusionPipeline(
        vae=vae.to(memory_format=torch.channels_last),
        unet=unet.to(memory_format=torch.channels_last),
        text_encoder=build_text_encoder(tokenizer),
        tokenizer=tokenizer,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    train_vae(pipeline.vae.train(), budget)
    pipeline.vae.eval()
    train_unet(pipeline, budget)
    return pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    # Now rather than after the training: a file in the way is an error.
    arguments.out.mkdir(parents=True, exist_ok=True)
    pipeline = train(Budget(), arguments.seed)
    # The text encoder keeps float32: without a `torch_dtype`, transformers loads the dtype that
    # it finds in the file, diffusers float32, and then the two do not fit together.
    pipeline.vae.to(torch.float16)
    pipeline.unet.to(torch.float16)
    with tempfile.TemporaryDirectory(dir=arguments.out.parent) as folder:
        pipeline.save_pretrained(Path(folder, "model"))
        shutil.rmtree(arguments.out)
        Path(folder, "model").rename(arguments.out)
    size = sum(path.stat().st_size for path in arguments.out.rglob("*") if path.is_file())
    print(f"{arguments.out}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
