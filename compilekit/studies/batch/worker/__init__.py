"""The worker of a trial: runs one batch in a process of its own, which may be killed."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any


def run(request: dict[str, Any], say: Any) -> dict[str, Any]:
    """Run the trial whose request is pickled in a file."""
    # Relative paths in recipes and options start from the folder of the command.
    os.chdir(request["cwd"])
    sys.path[:] = request["path"]
    say("loading torch")
    from compilekit.studies.batch.trial import run_trial

    return run_trial(pickle.loads(Path(request["file"]).read_bytes()), say)  # noqa: S301 - our own file
