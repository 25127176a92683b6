"""How long a second build takes when nothing changed, and when one option of one part did.

Each build is a process of its own, with another hash seed, as two runs of a CI job are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SAMPLE = {"prompt": "a cat", "height": 64, "width": 64, "num_inference_steps": 1}
STEPS = "torch_compile{components=unet}, torch_compile{components=vae.decode}"
CHANGED = "torch_compile{components=unet}, torch_compile{components=vae.decode, dynamic=false}"
BUILD = """
import json, sys, time
import compilekit as ck

steps, sample, model, target = sys.argv[1:]
start = time.perf_counter()
recipe = ck.Recipe.from_steps(steps, sample=json.loads(sample))
built = ck.build(recipe, model, target, progress=False)
print(built)
print(time.perf_counter() - start)
"""


def build(steps: str, folder: Path, number: int) -> float:
    """Build in a new process; returns the seconds, without those that the imports take."""
    words = [steps, json.dumps(SAMPLE), folder / "model", folder / f"bundle-{number}"]
    variables = {"COMPILEKIT_CACHE": str(folder / "cache"), "PYTHONHASHSEED": str(number)}
    done = subprocess.run(
        [sys.executable, "-c", BUILD, *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, **variables},
    )
    *text, seconds = done.stdout.splitlines()
    print(*text, sep="\n")
    return float(seconds)


def main() -> None:
    """Build three times into an empty cache, and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=128, help="of the UNet; 128: 142 M parameters")
    arguments = parser.parse_args()
    from models import pipeline

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pipeline(arguments.width).save_pretrained(folder / "model")
        steps = (STEPS, STEPS, CHANGED)
        first, again, changed = (build(text, folder, n) for n, text in enumerate(steps))
    print(f"first {first:.1f} s; identical {again:.2f} s, {again / first:.3f} of it")
    print(f"one option of the VAE changed: {changed:.1f} s, {changed / first:.2f} of it")


if __name__ == "__main__":
    main()
