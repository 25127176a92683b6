"""Where the build cache lies and how large it may become, as the environment says."""

from __future__ import annotations

import os
from pathlib import Path

from compilekit.base.bytesize import parse_size

FOLDER, LIMIT = "COMPILEKIT_CACHE", "COMPILEKIT_CACHE_LIMIT"
DEFAULT_LIMIT = 50_000_000_000


def folder() -> Path:
    """The folder that the environment names, or the user's own."""
    if named := os.environ.get(FOLDER):
        return Path(os.path.expanduser(named))  # noqa: PTH111 - Path's raises where there is no home
    import platformdirs

    return platformdirs.user_cache_path("compilekit", appauthor=False)


def limit() -> int:
    """How many bytes it may hold."""
    text = os.environ.get(LIMIT)
    return parse_size(text, LIMIT) if text else DEFAULT_LIMIT
