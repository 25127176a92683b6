"""How far the measured rates of this machine differ between runs, each in a process of its own."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

CHILD = """
import json, time, torch
from compilekit.measure.rates import measured
start = time.perf_counter()
rates = {device: rates.model_dump(mode="json") for device, rates in measured().items()}
print(json.dumps({"seconds": time.perf_counter() - start, "rates": rates}))
"""


def run() -> dict[str, Any]:
    """Measure in a new process."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD], check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def flat(rates: dict[str, Any]) -> dict[str, float]:
    """The rates of all devices, by device and kind."""
    found = {}
    for device, of in rates.items():
        for operation in ("matmul", "convolution"):
            for number, rate in of[operation].items():
                found[f"{device} {operation} {number}"] = rate
        found[f"{device} memory"] = of["memory"]
    return found


def main() -> None:
    """Measure several times, and print the worst disagreement of each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = [run() for _ in range(max(2, parser.parse_args().runs))]
    rows = [flat(each["rates"]) for each in runs]
    for kind in rows[0]:
        column = [row[kind] for row in rows]
        apart = max(column) / min(column) - 1
        shown = ", ".join(f"{rate / 1e9:.3g}" for rate in column)
        print(f"{kind:24} {apart:5.0%} apart: {shown} (1e9 a second)")
    print("seconds:", ", ".join(f"{each['seconds']:.1f}" for each in runs))
    others = (max(rates["others"] for rates in each["rates"].values()) for each in runs)
    print("taken by other programs:", ", ".join(f"{share:.0%}" for share in others))


if __name__ == "__main__":
    main()
