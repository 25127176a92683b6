"""What steps gain: a call of a denoiser with each list of steps, timed in turn, with its error.

Denoisers of the real shapes, with random weights made on the device. All of them lie in memory
while they are timed, so FLUX has a part of its blocks.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from torch import nn

import compilekit as ck

# The budgets are wide: this measures the errors, and refuses none of them.
PRECISION = "precision{dtype=bfloat16, budget=1}"
REGIONS = "torch_compile{components=model, regions=auto, budget=1}"
WHOLE = "torch_compile{components=model, budget=1}"
WAYS = {
    "bfloat16, eager": PRECISION,
    "compiled by region": f"{PRECISION}, {REGIONS}",
    "compiled whole": f"{PRECISION}, {WHOLE}",
    "int8_dynamic, by region": (
        f"{PRECISION}, torchao{{components=model, config=int8_dynamic, "
        f"min_features=512, budget=1}}, {REGIONS}"
    ),
    "float8_dynamic, by region": (
        f"{PRECISION}, torchao{{components=model, config=float8_dynamic, granularity=per_row, "
        f"min_features=512, budget=1}}, {REGIONS}"
    ),
    "channels_last, eager": f"{PRECISION}, channels_last{{components=model}}",
    "channels_last, by region": f"{PRECISION}, channels_last{{components=model}}, {REGIONS}",
}


class Plain(nn.Module):
    """SDXL's UNet with tensors alone as its arguments."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Any, timestep: Any, text: Any, pooled: Any, sizes: Any) -> Any:
        """Put the conditions of the size together as the pipeline does."""
        conditions = {"text_embeds": pooled, "time_ids": sizes}
        return self.unet(sample, timestep, text, added_cond_kwargs=conditions, return_dict=False)


def sdxl(small: bool) -> tuple[Any, dict[str, Any]]:
    """Build SDXL's UNet, and inputs of one call with guidance at 1024x1024."""
    from diffusers import UNet2DConditionModel

    widths = (32, 64, 128) if small else (320, 640, 1280)
    unet = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=widths,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=tuple(width // 64 or 1 for width in widths),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    side = 32 if small else 128
    return Plain(unet).eval(), {
        "sample": torch.randn(2, 4, side, side),
        "timestep": torch.tensor([500.0, 500.0]),
        "text": torch.randn(2, 77, 2048),
        "pooled": torch.randn(2, 1280),
        "sizes": torch.rand(2, 6) * 1000,
    }


def flux(small: bool) -> tuple[Any, dict[str, Any]]:
    """Build 6 of FLUX's 19 double and 12 of its 38 single blocks, and inputs for 1024x1024."""
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        num_layers=2 if small else 6,
        num_single_layers=2 if small else 12,
        num_attention_heads=2 if small else 24,
        guidance_embeds=True,
    )
    tokens, words = (64, 16) if small else (4096, 512)
    return model.eval(), {
        "hidden_states": torch.randn(1, tokens, 64),
        "encoder_hidden_states": torch.randn(1, words, 4096),
        "pooled_projections": torch.randn(1, 768),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.zeros(tokens, 3),
        "txt_ids": torch.zeros(words, 3),
        "guidance": torch.tensor([3.5]),
    }


def timed(made: Any, inputs: Any) -> float:
    """Seconds of one call, with nothing left to do on the device."""
    start = time.perf_counter()
    made(**inputs)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Apply each list of steps to a model of its own; time them all in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=("sdxl", "flux"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a model that runs anywhere")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--without", nargs="*", default=[], help="words of the ways to leave out")
    given = parser.parse_args()
    ready: dict[str, Any] = {}
    for way, steps in WAYS.items():
        if any(word in way for word in given.without):
            continue
        torch.manual_seed(0)
        with torch.device(given.device):
            model, inputs = {"sdxl": sdxl, "flux": flux}[given.model](given.small)
        recipe = ck.Recipe.from_steps(steps, device=given.device)
        recipe = ck.Recipe.parse(recipe.to_yaml() + "verify: {max_relative_error: 1}\n")
        start = time.perf_counter()
        try:
            done = ck.apply(recipe, model, inputs=inputs, progress=False)
        except ck.CompilekitError as error:
            print(f"{way}: {error}", flush=True)
            continue
        seconds, found = time.perf_counter() - start, done.report.final[0].error
        ready[way] = (done.pipeline, {name: value.bfloat16() for name, value in inputs.items()})
        print(f"{way}: error {found:.1e}; applied and measured in {seconds:.0f} s", flush=True)
    times: dict[str, list[float]] = {way: [] for way in ready}
    with torch.no_grad():
        for number in range(-3, given.rounds):
            for way, (made, inputs) in ready.items():
                seconds = timed(made, inputs)
                if number >= 0:
                    times[way].append(seconds)
    base = statistics.median(times["bfloat16, eager"])
    for way, values in times.items():
        middle = statistics.median(values)
        print(f"{way}: {middle * 1e3:.1f} ms a call, {base / middle:.2f} times as fast as eager")


if __name__ == "__main__":
    main()
