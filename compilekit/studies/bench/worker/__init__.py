"""The worker of a variant: makes it in a process of its own, and runs it when it is asked."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

made: Any = None
"""The variant, once the first request has made it."""


def run(request: dict[str, Any], say: Any) -> dict[str, Any]:
    """Make the variant whose order is pickled in a file; or let it run."""
    global made  # noqa: PLW0603 - it stays from one request to the next
    if made is None:
        # Relative paths in recipes and options start from the folder of the command.
        os.chdir(request["cwd"])
        sys.path[:] = request["path"]
        say("loading torch")
    from compilekit.studies.bench.variant import make, settle

    if made is None:
        made = make(pickle.loads(Path(request["file"]).read_bytes()), say)  # noqa: S301 - our own file
        answer = made.about()
    else:
        answer = made.answer(request)
    settle()
    return answer  # type: ignore[no-any-return]
