"""The memory that a call takes beyond what is held before it."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from compilekit.base.control_groups import field
from compilekit.subject.model import cuda_in_use

_PROC = Path("/proc")


def working_bytes(run: Callable[[], object]) -> int | None:
    """The bytes that a call takes at most on top of what is held before it; None if unknown."""
    reset = reset_peak()
    before = held_bytes()
    run()
    return peak_bytes() - before if reset else None


def reset_peak() -> bool:
    """Let `peak_bytes` count from now on; false where that cannot be."""
    if cuda_in_use():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return True
    with contextlib.suppress(OSError, AttributeError):
        # What was freed and is kept for later would hide what the next call takes.
        ctypes.CDLL(None).malloc_trim(0)
    try:
        (_PROC / "self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def held_bytes() -> int:
    """The bytes in use now: the GPU's where there is one, else the process's."""
    if cuda_in_use():
        return torch.cuda.memory_allocated()
    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """The most bytes in use since `reset_peak`, or at all: the GPU's, else the process's."""
    if cuda_in_use():
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    # psutil does not know the peak.
    unit = 1 if sys.platform == "darwin" else 1024
    most = field(_PROC / "self/status", "VmHWM")
    return most or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
