"""The demo: a five-step recipe on a small model that lies beside it, before and after."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Run `compilekit apply` as a user would, from the checkout's root."""
    os.chdir(HERE.parent)
    command = ["compilekit", "apply", "demo/recipe.yaml", "--output", "demo/out"]
    print("$", *command, flush=True)
    os.execv(Path(sys.executable).with_name("compilekit"), command)


if __name__ == "__main__":
    main()
