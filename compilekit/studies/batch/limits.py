"""How much memory a trial may take: what was said, or what is free."""

from __future__ import annotations

import contextlib
import re
import resource
from pathlib import Path

from compilekit.base.bytesize import parse_size, size
from compilekit.base.words import Device
from compilekit.errors import UsageError

PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")

NO_MEMORY = re.compile(
    r"out of memory|cannot allocate memory|can't allocate memory|bad_alloc|"
    r"virtual memory exhausted|memory allocation failed|failed to allocate|"
    r"could not create a (memory|primitive)|OutOfMemory|can't start new thread",
    re.IGNORECASE,
)
"""What libraries say when there is no more memory, and raise no error of its own kind for it."""


WANTED = re.compile(r"tried to allocate ([\d.]+) (\w+)", re.IGNORECASE)


def share_or_bytes(text: str) -> tuple[float | None, int | None]:
    """What "90%" or "8 GB" says: a share of what there is, or bytes."""
    if found := PERCENT.fullmatch(text):
        share = float(found[1]) / 100
        if not 0 < share <= 1:
            raise UsageError(f'memory: "{text}" is not between 0 % and 100 %')
        return share, None
    return None, parse_size(text, "memory")


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
    least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (least, hard))


def is_memory(error: BaseException) -> str:
    """What an error says, if it or what caused it says that memory ran out; else nothing."""
    seen: set[int] = set()
    found: BaseException | None = error
    said = ""
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if isinstance(found, MemoryError) or NO_MEMORY.search(f"{type(found).__name__}: {found}"):
            said = in_short(str(found))
        found = found.__cause__ or found.__context__
    return said


def in_short(text: str) -> str:
    """What a message about memory says, without the allocator's own words."""
    if wanted := WANTED.search(text):
        amount = size(int(wanted[1])) if wanted[2] == "bytes" else f"{wanted[1]} {wanted[2]}"
        return f"no memory for {amount} more"
    line = text.strip().partition("\n")[0]
    return f"no memory left ({line})" if line else "no memory left"
