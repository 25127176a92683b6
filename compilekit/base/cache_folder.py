"""The folder of what compilekit keeps between runs, as the environment says. Light: no torch."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = "COMPILEKIT_CACHE"


def folder() -> Path:
    """The folder that the environment names, or the user's own."""
    if named := os.environ.get(FOLDER):
        return Path(os.path.expanduser(named))  # noqa: PTH111 - Path's raises where there is no home
    import platformdirs

    return platformdirs.user_cache_path("compilekit", appauthor=False)
