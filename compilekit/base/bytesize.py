"""Counts of bytes, as people write and read them."""

from __future__ import annotations

import re

from pydantic import ByteSize, TypeAdapter, ValidationError

from compilekit.errors import UsageError


def parse_size(text: str, what: str) -> int:
    """The bytes that a text such as "20 GB" says; `what` is named if it says none.

    >>> parse_size("1.5 GiB", "memory")
    1610612736
    """
    try:
        # ByteSize ignores what follows the unit.
        whole = text if re.fullmatch(r"\s*\d*\.?\d+\s*\w*\s*", text) else ""
        count = int(TypeAdapter(ByteSize).validate_python(whole))
    except (ValidationError, OverflowError):
        count = 0
    if count <= 0:
        raise UsageError(f'{what}: "{text}" is not a size; write "20 GB"')
    return count


def size(count: float) -> str:
    """Bytes for people: three digits, and a unit.

    >>> size(5_620_000)
    '5.62 MB'
    """
    for unit in ("B", "KB", "MB"):
        if count < 1000:  # noqa: PLR2004
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
