"""How many calls' time it takes to apply one step that costs nothing to a UNet of 94 M parameters.

python bench/apply_cost.py        # about a minute
"""

from __future__ import annotations

import statistics
import time

import models
import torch

import compilekit as ck
from compilekit.report.report import stage_lines

CALLS = 5


def main() -> None:
    """Time calls, then `apply`, then calls again; print the ratio, and where the time went."""
    net = models.unet()
    inputs = models.unet_inputs()

    def seconds() -> list[float]:
        times = []
        for _ in range(CALLS):
            start = time.perf_counter()
            with torch.no_grad():
                net(**inputs)
            times.append(time.perf_counter() - start)
        return times

    seconds()
    before = seconds()
    start = time.perf_counter()
    recipe = ck.Recipe.from_steps("channels_last{components=model}")
    report = ck.apply(recipe, net, inputs=inputs, progress=False).report
    took = time.perf_counter() - start
    call = statistics.median([*before, *seconds()])
    print(f"a call {call:.2f} s, apply {took:.2f} s: {took / call:.1f} calls")
    print("\n".join(stage_lines(report)))
    print(str(report).splitlines()[0])


if __name__ == "__main__":
    main()
