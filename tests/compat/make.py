"""Make the bundle, the build cache and the reproducer in `before/`.

Run once, with the first version; kept, so that later versions are tried on what it wrote:

    python tests/compat/make.py
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

HERE = Path(__file__).parent
BEFORE = HERE / "before"
STEPS = "channels_last{components=unet}, by_hand{components=unet, modules=[conv_in, conv_out]}"
SAMPLE = {"batch_size": 1, "num_inference_steps": 2, "seed": 3}


def pipeline():
    """A pipeline of some ten thousand parameters."""
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(4, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=2,
        attention_head_dim=4,
    )
    return DDPMPipeline(unet=unet.eval(), scheduler=DDPMScheduler())


def main() -> None:
    """Write everything anew."""
    shutil.rmtree(BEFORE, ignore_errors=True)
    BEFORE.mkdir()
    os.environ["COMPILEKIT_CACHE"] = str(BEFORE / "cache")
    os.environ["COMPILEKIT_REPRO"] = str(BEFORE / "repro")
    import compilekit as ck

    host = ck.load_host([HERE / "by_hand.py"])
    recipe = ck.Recipe.from_steps(STEPS, sample=SAMPLE)
    ck.build(recipe, pipeline(), BEFORE / "bundle", host=host)
    steps = "precision{components=unet, dtype=bfloat16, budget=1e-9}"
    with contextlib.suppress(ck.VerificationError):
        ck.apply(ck.Recipe.from_steps(steps, sample=SAMPLE), pipeline(), host=host)


if __name__ == "__main__":
    main()
