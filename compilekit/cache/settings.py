"""Where the build cache lies and how large it may become, as the environment says."""

from __future__ import annotations

import os

from compilekit.base.bytesize import parse_size
from compilekit.base.cache_folder import FOLDER, folder

__all__ = ["DEFAULT_LIMIT", "FOLDER", "LIMIT", "folder", "limit"]

LIMIT = "COMPILEKIT_CACHE_LIMIT"
DEFAULT_LIMIT = 50_000_000_000


def limit() -> int:
    """How many bytes it may hold."""
    text = os.environ.get(LIMIT)
    return parse_size(text, LIMIT) if text else DEFAULT_LIMIT
