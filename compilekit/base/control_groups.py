"""The cores and the memory that the machine and its control groups leave to this process.

Light: no torch.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from pathlib import Path

import psutil

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")


def free_bytes() -> int:
    """What this process may still take of the machine's memory without swapping."""
    limits = [free for free in map(_free_in, _own_groups("memory")) if free is not None]
    available: int = psutil.virtual_memory().available
    return min([available, *limits])


def total_bytes() -> int:
    """The memory that this process may use at most."""
    limits = [most for most in map(_most_in, _own_groups("memory")) if most is not None]
    total: int = psutil.virtual_memory().total
    return min([total, *limits])


def cores() -> int:
    """The processor cores that this process may use."""
    pinned = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    shares = [share for share in map(_share_in, _own_groups("cpu")) if share is not None]
    return max(1, math.ceil(min([pinned or 1, *shares])))


def _own_groups(controller: str) -> list[Path]:
    """The control groups that limit this process in something, with those above them."""
    try:
        lines = (_PROC / "self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = _GROUPS / controllers
        inner = top / path.lstrip("/")
        groups += [group for group in (inner, *inner.parents) if group.is_relative_to(top)]
    return groups


_LIMITS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""The files of both versions of control groups."""


def _most_in(group: Path) -> int | None:
    for limit, *_ in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            return int((group / limit).read_text(encoding="ascii"))
    return None


def _share_in(group: Path) -> float | None:
    """How many cores' time a group leaves."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = map(int, (group / "cpu.max").read_text(encoding="ascii").split())
        return quota / period
    with contextlib.suppress(OSError, ValueError):
        files = (group / f"cpu.cfs_{name}_us" for name in ("quota", "period"))
        quota, period = (int(file.read_text(encoding="ascii")) for file in files)
        return quota / period if quota > 0 else None
    return None


def _free_in(group: Path) -> int | None:
    for limit, used, cached in _LIMITS:
        with contextlib.suppress(OSError, ValueError):
            most = int((group / limit).read_text(encoding="ascii"))
            taken = int((group / used).read_text(encoding="ascii"))
            # Cached files give way.
            return max(0, most - taken + (field(group / "memory.stat", cached) or 0))
    return None


def field(path: Path, key: str) -> int | None:
    """A number in a file of the kernel's, in bytes."""
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    match = re.search(rf"^{key}:?\s+(\d+)(\s+kB)?$", text, re.MULTILINE)
    return int(match[1]) * (1024 if match[2] else 1) if match else None
