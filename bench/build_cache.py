"""How long a second build takes when nothing changed, and when one option of one part did."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

SAMPLE = {"prompt": "a cat", "height": 64, "width": 64, "num_inference_steps": 1}
STEPS = "torch_compile{components=unet}, torch_compile{components=vae.decode}"
CHANGED = "torch_compile{components=unet}, torch_compile{components=vae.decode, dynamic=false}"


def main() -> None:
    """Build three times into an empty cache, and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=128, help="of the UNet; 128: 142 M parameters")
    given = parser.parse_args()
    from models import pipeline

    import compilekit as ck

    with tempfile.TemporaryDirectory() as folder:
        os.environ["COMPILEKIT_CACHE"] = str(Path(folder) / "cache")
        times = []
        for number, steps in enumerate((STEPS, STEPS, CHANGED)):
            pipe = pipeline(given.width)
            start = time.perf_counter()
            recipe = ck.Recipe.from_steps(steps, sample=SAMPLE)
            built = ck.build(recipe, pipe, Path(folder) / f"bundle-{number}", progress=False)
            times.append(time.perf_counter() - start)
            print(built)
    print(f"first {times[0]:.1f} s; identical {times[1]:.2f} s, {times[1] / times[0]:.3f} of it")
    print(f"one option of the VAE changed: {times[2]:.1f} s, {times[2] / times[0]:.2f} of it")


if __name__ == "__main__":
    main()
