"""The memory that the machine and its control groups leave to this process. No torch."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import psutil

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")


def free_bytes() -> int:
    """What this process may still take of the machine's memory without swapping."""
    limits = [free for free in map(_free_in, _own_groups()) if free is not None]
    available: int = psutil.virtual_memory().available
    return min([available, *limits])


def _own_groups() -> list[Path]:
    """The control groups that limit this process, with those above them."""
    try:
        lines = (_PROC / "self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = _GROUPS / controllers
        inner = top / path.lstrip("/")
        groups += [group for group in (inner, *inner.parents) if group.is_relative_to(top)]
    return groups


def _free_in(group: Path) -> int | None:
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
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
