"""Stored recipes: from the driver's cache into a bundle, and back onto a local disk. Light."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER, WARM_UP, PICTURES = "recipes", "warm_up.json", "warm_up"
PLAIN = "all"
"""The name in a bundle of what lies in the cache's own folder, without a rank behind its name."""


def collect(cache: Path | None, bundle: Path) -> int:
    """Copy the recipes of this process into a bundle; gives how many there are."""
    count = 0
    if cache is None:
        return count
    for folder in sorted(cache.parent.glob(f"{cache.name}*")):
        # The driver puts the rank behind the name that it was given.
        name = folder.name.removeprefix(cache.name) or PLAIN
        if folder.is_dir() and any(folder.iterdir()):
            made = shutil.copytree(folder, bundle / FOLDER / name)
            count += len(list(made.glob("*.recipe")))
    return count


def spread(bundle: Path, cache: Path) -> int:
    """Copy a bundle's recipes where the driver looks for them, on a disk that has file locks."""
    count = 0
    for folder in sorted((bundle / FOLDER).glob("*")):
        rank = "" if folder.name == PLAIN else folder.name
        target = cache.parent / f"{cache.name}{rank}"
        made = shutil.copytree(folder, target, dirs_exist_ok=True)
        count += len(list(made.glob("*.recipe")))
    return count


def calls(bundle: Path) -> tuple[list[dict[str, Any]], int]:
    """The warm-up list of a bundle, and its seed."""
    said = json.loads((bundle / WARM_UP).read_text(encoding="utf-8"))
    return said["calls"], said["seed"]


def opened(call: dict[str, Any], bundle: Path) -> dict[str, Any]:
    """A call of the list, its pictures opened."""
    from PIL import Image

    made = dict(call)
    for name in made.pop("pictures", []):
        with Image.open(bundle / PICTURES / f"{name}.png") as picture:
            made[name] = picture.convert("RGB")
    return made


@contextlib.contextmanager
def no_bars() -> Iterator[None]:
    """Without the progress bars of diffusers and transformers, for a while."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries: list[Any] = [diffusers_logging, transformers_logging]
    shown = [each for each in libraries if each.is_progress_bar_enabled()]
    for each in shown:
        each.disable_progress_bar()
    try:
        yield
    finally:
        for each in shown:
            each.enable_progress_bar()
