"""How long `compilekit plan` takes, as a multiple of an empty Python: in turn, medians."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 15
EMPTY = [sys.executable, "-c", "pass"]
PLAN = [str(Path(sys.executable).with_name("compilekit")), "plan", "sdxl/cuda"]


def seconds(command: list[str]) -> float:
    """The wall time of one run of a command."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Run both in turn and print the ratio of the medians."""
    seconds(EMPTY), seconds(PLAN)
    pairs = [(seconds(EMPTY), seconds(PLAN)) for _ in range(ROUNDS)]
    empty, plan = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"empty Python {empty * 1e3:.0f} ms, plan {plan * 1e3:.0f} ms: {plan / empty:.1f} times")


if __name__ == "__main__":
    main()
