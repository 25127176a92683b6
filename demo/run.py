"""The demo: a five-step recipe on a small model that lies beside it: applied, built, and run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
OUT = "demo/out"
COMMANDS = (
    ["apply", "demo/recipe.yaml", "--output", OUT],
    ["build", "demo/recipe.yaml", "--output", f"{OUT}/bundle"],
    ["run", f"{OUT}/bundle", "--output", OUT],
)


def main() -> None:
    """Run the commands as a user would, from the checkout's root."""
    os.chdir(HERE.parent)
    shutil.rmtree(f"{OUT}/bundle", ignore_errors=True)  # of an earlier run
    for arguments in COMMANDS:
        print("$ compilekit", *arguments, flush=True)
        command = [Path(sys.executable).with_name("compilekit"), *arguments]
        code = subprocess.run(command, check=False).returncode
        if code:
            sys.exit(code)


if __name__ == "__main__":
    main()
