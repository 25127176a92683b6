"""What several tests share, and no fixture can be: constants, and a call of a pipeline."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from compilekit.cli import app
from compilekit.engine import gate, instruments, pace

EXPORTER = Path(__file__).parent / "plugins" / "eager_export.py"
"""An exporter of the tests' own: no compiler runs."""

LISTENING = [
    sys.executable,
    "-c",
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "signal.signal(signal.SIGHUP, signal.SIG_DFL); "
    "os.execv(sys.argv[1], sys.argv[1:])",
]
"""Before a command: signals end it, also where whoever started the tests ignores them."""

RESNET = "eager_export{components=unet, modules=[mid_block.resnets.0]}"
"""The step of the smallest build of a pipeline that compiles anything."""

SAMPLE = {"prompt": "a cat", "height": 32, "width": 32, "num_inference_steps": 2, "seed": 7}


def command(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process, which has imported already what takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd or Path.cwd())
        done = CliRunner().invoke(app, list(map(str, arguments)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


_FEW = {"LEAST": 1, "FEW": 1, "LOOKS": (1,), "PATIENCE": 0.0}
_ALL = {name: getattr(pace, name) for name in _FEW}


def take_few_times(patch: pytest.MonkeyPatch) -> None:
    """Time as few calls as may be, and build at any speed: small models say nothing about it."""
    patch.setattr(instruments, "TIMING_RUNS", 2)
    for name, value in _FEW.items():
        patch.setattr(pace, name, value)
    patch.setitem(gate.LEAST_SPEEDUP, "build", 0.0)


def take_all_times(patch: pytest.MonkeyPatch) -> None:
    """Time as many calls as users do."""
    for name, value in _ALL.items():
        patch.setattr(pace, name, value)


def edit_manifest(bundle: Path, change: Callable[[Any], object]) -> None:
    """Change what a manifest says, without its digest, so that the change itself is looked at."""
    path = bundle / "manifest.json"
    data = json.loads(path.read_text())
    data["own_digest"] = ""
    change(data)
    path.write_text(json.dumps(data))


def draw(pipeline: Any, **changes: Any) -> Any:
    """The sample's picture, as an array."""
    arguments = {key: value for key, value in SAMPLE.items() if key != "seed"}
    arguments |= {"generator": torch.Generator().manual_seed(7), "output_type": "np", **changes}
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(**arguments).images


class Twice(nn.Module):
    """A module of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(8, 8)
        self.other = nn.Linear(8, 8)

    def forward(self, x, scale=1.0):
        return {"sum": self.one(x) + self.other(x) * scale, "x": x}


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def until(condition: Callable[[], object], seconds: float = 20) -> bool:
    """Whether a condition comes true within so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
