"""The demo: the fastest recipe for a small model on this machine is found, applied and built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
OUT = "demo/out"
MINUTES = "2"


def compilekit(*arguments: str) -> None:
    """Run a command as a user would."""
    print("$ compilekit", *arguments, flush=True)
    command = [Path(sys.executable).with_name("compilekit"), *arguments]
    if code := subprocess.run(command, check=False).returncode:
        sys.exit(code)


def main() -> None:
    """Run the commands from the checkout's root."""
    os.chdir(HERE.parent)
    shutil.rmtree(OUT, ignore_errors=True)  # of an earlier run
    Path(OUT).mkdir()
    fast = f"{OUT}/fast.yaml"
    search = ("--for", "build", "--minutes", MINUTES, "--output", fast)
    compilekit("tune", "demo/recipe.yaml", *search)
    compilekit("apply", fast, "--output", OUT)
    compilekit("build", fast, "--output", f"{OUT}/bundle")
    compilekit("run", f"{OUT}/bundle", "--output", OUT)


if __name__ == "__main__":
    main()
