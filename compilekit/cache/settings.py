"""Where the build cache lies and how large it may become, as the environment says."""

from __future__ import annotations

import os
import re
from pathlib import Path

from compilekit.errors import UsageError

FOLDER, LIMIT = "COMPILEKIT_CACHE", "COMPILEKIT_CACHE_LIMIT"
DEFAULT_LIMIT = 50_000_000_000

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?b?)\s*", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def folder() -> Path:
    """The folder that the environment names, or the user's own."""
    if named := os.environ.get(FOLDER):
        return Path(named)
    import platformdirs

    return platformdirs.user_cache_path("compilekit", appauthor=False)


def limit() -> int:
    """How many bytes it may hold."""
    text = os.environ.get(LIMIT)
    return parse_size(text, LIMIT) if text else DEFAULT_LIMIT


def parse_size(text: str, what: str) -> int:
    """The bytes that "20 GB" says."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise UsageError(f'{what}: "{text}" is no size; write "20 GB", say')
    return int(float(found[1]) * _UNITS[found[2].lower().removesuffix("b")])
