"""From the start of a process to the first image: eager, compiled cold and warm, and a bundle.

Each way runs in a process of its own, in turn, so that a busy machine hurts all alike. Two times
are taken: from the process's start to the end of the first call, and from the end of the imports
(`load`, or `from_pretrained`) to it. Medians.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SAMPLE = {"prompt": "a cat", "height": 64, "width": 64, "num_inference_steps": 1}
WAYS = ("eager", "bundle", "compiled, warm cache", "compiled, cold")


def child(way: str, place: Path) -> None:
    """Do one way, and print its times."""
    import torch

    # What both need is imported before the clock starts: it is the same for all.
    import transformers.models.clip.modeling_clip  # noqa: F401
    from diffusers import StableDiffusionPipeline

    import compilekit as ck

    imported = time.time()
    if way == "bundle":
        pipe = ck.load(place / "bundle", progress=False)
    else:
        pipe = StableDiffusionPipeline.from_pretrained(place / "model")
        pipe.set_progress_bar_config(disable=True)
        if way != "eager":
            pipe.unet.compile()
    loaded = time.time()
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        pipe(**SAMPLE, generator=torch.Generator().manual_seed(0), output_type="np")
    done = time.time()
    started = float(os.environ["STARTED"])
    print(json.dumps({"all": done - started, "ready": done - imported, "load": loaded - imported}))


def run(way: str, place: Path, cache: Path) -> dict[str, float]:
    """Run one way in a new process."""
    if way == "compiled, cold":
        shutil.rmtree(cache, ignore_errors=True)
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(cache),
        "STARTED": str(time.time()),
    }
    done = subprocess.run(
        [sys.executable, __file__, "--child", way, str(place)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Build once, run all ways in turn, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--width", type=int, default=128, help="of the UNet; 128: 94 M parameters")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold-rounds", type=int, default=2, help="of the slow way, of these")
    given = parser.parse_args()
    if given.child:
        child(given.child[0], Path(given.child[1]))
        return
    from models import pipeline

    import compilekit as ck

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        pipe = pipeline(given.width)
        count = sum(p.numel() for p in pipe.unet.parameters()) / 1e6
        pipe.save_pretrained(place / "model")
        recipe = ck.Recipe.from_steps("torch_compile{components=unet}", sample=SAMPLE)
        print(ck.build(recipe, pipe, place / "bundle", cache=False, progress=False))
        del pipe
        times: dict[str, list[Any]] = {way: [] for way in WAYS}
        run("compiled, cold", place, place / "cache")
        for number in range(given.rounds):
            for way in WAYS:
                if way != "compiled, cold" or number < given.cold_rounds:
                    times[way].append(run(way, place, place / "cache"))
        medians = {
            way: {key: statistics.median(each[key] for each in found) for key in found[0]}
            for way, found in times.items()
        }
        print(f"UNet of {count:.0f} M parameters, float32; check of digests: all")
        for way, found in medians.items():
            ratio = found["ready"] / medians["eager"]["ready"]
            print(
                f"{way:22} load {found['load']:6.2f} s, to the first image {found['ready']:6.2f} s "
                f"({ratio:.2f}x eager), from the process's start {found['all']:6.2f} s"
            )
        cold = medians["compiled, cold"]["ready"] / medians["bundle"]["ready"]
        print(f"a cold compile takes {cold:.1f} times as long as the bundle")


if __name__ == "__main__":
    main()
