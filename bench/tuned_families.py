"""A tuned recipe for each of three small pipelines: built, and timed in a new process.

    python bench/tuned_families.py            # about ten minutes

In the new process the bundle and the pipeline as loaded take turns; the ratio is beside what `tune`
measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import compilekit as ck
from compilekit.testing import tiny_pipeline

KINDS = ("sd", "sdxl", "flux")
SAMPLE = "{prompt: a cat, height: 64, width: 64, num_inference_steps: 8, seed: 0}"
RECIPE = (
    "compilekit: 1\nname: {}\ntarget: {{device: cpu}}\nsample: {}\n"
    "verify: {{max_relative_error: 0.01, min_psnr: 35}}\n"
)
TURNS = 15


def timed(folder: str) -> None:
    """In a new process: the bundle beside the pipeline as loaded, in turn."""
    from diffusers import DiffusionPipeline

    both = [ck.load(f"{folder}/bundle", progress=False)]
    both.append(DiffusionPipeline.from_pretrained(f"{folder}/model"))
    arguments = {"prompt": "a cat", "height": 64, "width": 64, "num_inference_steps": 8}
    ratios = []
    for pipe in both:
        pipe.set_progress_bar_config(disable=True)
        pipe(**arguments)
    for turn in range(TURNS):
        seconds = {}
        for pipe in both if turn % 2 else reversed(both):
            start = time.perf_counter()
            pipe(**arguments)
            seconds[id(pipe)] = time.perf_counter() - start
        ratios.append(seconds[id(both[1])] / seconds[id(both[0])])
    print(f"loaded in a new process: {statistics.median(ratios):.2f}x as fast as loaded")


def main() -> None:
    """Tune, build and load each of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--timed", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.timed:
        timed(given.timed)
        return
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            tiny_pipeline(kind).save_pretrained(f"{folder}/model")
            recipe = ck.Recipe.parse(RECIPE.format(kind, SAMPLE))
            study = Path(folder, "study")
            tuned = ck.tune(
                recipe, f"{folder}/model", for_="build", minutes=given.minutes, study=study
            )
            print(f"{kind}: {tuned}", flush=True)
            built = ck.build(tuned.recipe, f"{folder}/model", f"{folder}/bundle", progress=False)
            print(f"built: {built.report.verdict.speedup:.2f}x as fast as loaded", flush=True)
            command = [sys.executable, __file__, "--timed", folder]
            subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "7"})


if __name__ == "__main__":
    main()
