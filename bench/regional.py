"""A FLUX-shaped transformer compiled by region and whole: time to compile, and time of a step."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Build both, and time a step of each in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=16, help="a quarter of the size of a head")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    import torch
    from models import flux, flux_inputs

    import compilekit as ck

    inputs = flux_inputs(given.tokens)
    with tempfile.TemporaryDirectory() as folder:
        loaded: dict[str, Any] = {}
        seconds: dict[str, float] = {}
        for regions in ("none", "model"):
            recipe = ck.Recipe.from_steps(f"torch_compile{{components=model, regions={regions}}}")
            target = Path(folder) / regions
            built = ck.build(
                recipe, flux(given.width), target, inputs=inputs, cache=False, progress=False
            )
            (step,) = built.report.steps
            seconds[regions] = float(step.details["compile_seconds"])
            loaded[regions] = ck.load(target, progress=False)
            print(f"regions: {regions}: compiled in {seconds[regions]:.1f} s; {built}")
        times: dict[str, list[float]] = {name: [] for name in loaded}
        with torch.no_grad():
            for number in range(given.rounds + 2):
                for name, model in loaded.items():
                    start = time.perf_counter()
                    model(**inputs)
                    if number > 1:
                        times[name].append(time.perf_counter() - start)
        steps = {name: statistics.median(found) for name, found in times.items()}
        print(
            f"a step: whole {steps['none'] * 1e3:.0f} ms, by region {steps['model'] * 1e3:.0f} ms"
        )
        print(
            f"by region: {seconds['model'] / seconds['none']:.2f} of the time to compile, "
            f"{steps['model'] / steps['none']:.2f} of the time of a step"
        )


if __name__ == "__main__":
    main()
