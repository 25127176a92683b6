"""What callers of the Python API pass, checked: a wrong value is one sentence. Light: no torch."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from compilekit.errors import UsageError


def path_of(value: object, what: str) -> Path:
    """A path that a caller gives; `what` begins the message: "a bundle is the path of a folder".

    >>> path_of(3, "a bundle is the path of a folder")
    Traceback (most recent call last):
    compilekit.errors.UsageError: a bundle is the path of a folder, not a value of type int
    """
    if not isinstance(value, str | Path):
        raise UsageError(f"{what}, not a value of type {type(value).__name__}")
    if "\0" in str(value):
        raise UsageError(f"{what}, and {str(value)!r} is no path")
    try:
        os.lstat(value)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UsageError(
                f"{what}, and {str(value)[:40]!r}... is too long for a path"
            ) from error
    return Path(value)


def refuse_uncallable(name: str, value: object) -> None:
    """Refuse an argument that is neither left out nor a function."""
    if value is not None and not callable(value):
        raise UsageError(f"{name}= is a function, not a value of type {type(value).__name__}")
