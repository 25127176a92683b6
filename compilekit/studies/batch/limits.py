"""How much memory a trial may take: what was said, or what is free."""

from __future__ import annotations

import contextlib
import re
import resource
from collections.abc import Callable
from pathlib import Path

from compilekit.base.bytesize import parse_size, size
from compilekit.base.control_groups import free_bytes
from compilekit.base.words import Device
from compilekit.errors import UsageError

PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")

NO_MEMORY = re.compile(
    r"out of memory|cannot allocate memory|can't allocate memory|bad_alloc|"
    r"virtual memory exhausted|memory allocation failed|failed to allocate|"
    r"could not create a (memory|primitive)|OutOfMemory|can't start new thread",
    re.IGNORECASE,
)
"""What libraries write when memory runs out and they raise no `MemoryError` for it."""

REQUESTED = re.compile(r"tried to allocate ([\d.]+) (\w+)", re.IGNORECASE)


def share_or_bytes(text: str) -> tuple[float | None, int | None]:
    """What "90%" or "8 GB" says: a share of what there is, or bytes."""
    if percent := PERCENT.fullmatch(text):
        share = float(percent[1]) / 100
        if not 0 < share <= 1:
            raise UsageError(f'memory: "{text}" is not between 0 % and 100 %')
        return share, None
    return None, parse_size(text, "memory")


def allowed(
    device: Device, memory: str | None, note: Callable[[str], None]
) -> tuple[int | None, float | None]:
    """The bytes or the share that a trial may take; notes it if that is more than is free."""
    share, limit = (None, None) if memory is None else share_or_bytes(memory)
    if device != "cpu":
        if memory is not None and device != "cuda":
            raise UsageError(f'memory: a trial on "{device}" can be held to no limit')
        return limit, share
    free = free_bytes()
    if limit is None:
        limit = int(free * (share or 1.0))
    if limit > free:
        note(
            f"warning: {size(limit)} is more than the {size(free)} that are free here: "
            "a trial may make the machine swap, or be killed"
        )
    return limit, None


def hold(device: Device, limit: int | None, share: float | None) -> None:
    """Hold this process to so much memory: on the GPU where it works there, else its own data.

    Address space would count files that are only mapped (the weights), so it is no measure.
    """
    if device == "cuda":
        import torch

        if share is None and limit is not None:
            share = limit / torch.cuda.get_device_properties(0).total_memory
        if share is not None:
            torch.cuda.set_per_process_memory_fraction(min(1.0, share))
        return
    if device != "cpu" or limit is None:
        return
    with contextlib.suppress(OSError):  # of two processes, this is the one to be killed
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def is_memory(error: BaseException) -> str:
    """Why memory ran out, if the error or one of its causes says that it did; else empty."""
    seen: set[int] = set()
    cause: BaseException | None = error
    reason = ""
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, MemoryError) or NO_MEMORY.search(f"{type(cause).__name__}: {cause}"):
            reason = in_short(str(cause))
        cause = cause.__cause__ or cause.__context__
    return reason


def in_short(text: str) -> str:
    """What a message about memory says, without the allocator's own words."""
    if request := REQUESTED.search(text):
        amount = size(int(request[1])) if request[2] == "bytes" else f"{request[1]} {request[2]}"
        return f"no memory for {amount} more"
    line = text.strip().partition("\n")[0]
    return f"no memory left ({line})" if line else "no memory left"
