"""The demo: a recipe on a small model that lies beside it: applied, built, and run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import compilekit as ck

HERE = Path(__file__).parent
OUT = "demo/out"
WORTH = 1.5
"""How many times faster than float32 bfloat16 must be to be worth its rounding."""


def recipe() -> str:
    """The recipe for this machine, as its measured rates say."""
    here = ck.machine(measure=True)
    print(here, flush=True)
    slowdowns = [here.slowdown("bfloat16", "matmul"), here.slowdown("bfloat16", "convolution")]
    is_fast = all(times is not None and times * WORTH < 1 for times in slowdowns)
    chosen = "demo/bfloat16.yaml" if is_fast else "demo/recipe.yaml"
    print(f"bfloat16 is {'fast' if is_fast else 'not fast'} here, so the recipe is {chosen}")
    return chosen


def main() -> None:
    """Run the commands as a user would, from the checkout's root."""
    os.chdir(HERE.parent)
    shutil.rmtree(f"{OUT}/bundle", ignore_errors=True)  # of an earlier run
    chosen = recipe()
    for arguments in (
        ["apply", chosen, "--output", OUT],
        ["build", chosen, "--output", f"{OUT}/bundle"],
        ["run", f"{OUT}/bundle", "--output", OUT],
    ):
        print("$ compilekit", *arguments, flush=True)
        command = [Path(sys.executable).with_name("compilekit"), *arguments]
        code = subprocess.run(command, check=False).returncode
        if code:
            sys.exit(code)


if __name__ == "__main__":
    main()
