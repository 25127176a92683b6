"""Stored recipes: from the driver's cache into a bundle, and back onto a local disk. Light."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER, WARM_UP, PICTURES = "recipes", "warm_up.json", "warm_up"
STEPS = 5
"""Steps of a warm-up: a multi-step scheduler of order 4 has seen all that it does by then."""

PLAIN = "all"
"""The name in a bundle of what lies in the cache's own folder, without a rank behind its name."""


def collect(cache: Path | None, bundle: Path) -> int:
    """Copy the recipes of this process into a bundle; gives how many there are."""
    if cache is None:
        return 0
    for folder in sorted(cache.parent.glob(f"{cache.name}*")):
        # The driver puts the rank behind the name that it was given.
        name = folder.name.removeprefix(cache.name) or PLAIN
        if folder.is_dir() and any(folder.iterdir()):
            shutil.copytree(folder, bundle / FOLDER / name)
    return len(list((bundle / FOLDER).glob("*/*.recipe")))


def spread(bundle: Path, cache: Path) -> None:
    """Copy a bundle's recipes where the driver looks for them, on a disk that has file locks."""
    for folder in (bundle / FOLDER).glob("*"):
        rank = "" if folder.name == PLAIN else folder.name
        shutil.copytree(folder, cache.parent / f"{cache.name}{rank}", dirs_exist_ok=True)


def several_steps(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call of the warm-up, with more denoising steps than the fewest that it can have.

    What schedulers do between two calls of the denoiser differs in the first steps, and lazy mode
    compiles it too.
    """
    steps = call.get("num_inference_steps")
    return {**call, "num_inference_steps": STEPS * steps} if isinstance(steps, int) else dict(call)


def calls(bundle: Path) -> tuple[list[dict[str, Any]], int]:
    """The warm-up list of a bundle, and its seed."""
    warm_up = json.loads((bundle / WARM_UP).read_text(encoding="utf-8"))
    return warm_up["calls"], warm_up["seed"]


def opened(call: Mapping[str, Any], bundle: Path) -> dict[str, Any]:
    """A call of the list, its pictures opened."""
    from PIL import Image

    arguments = dict(call)
    for name in arguments.pop("pictures", []):
        with Image.open(bundle / PICTURES / f"{name}.png") as picture:
            arguments[name] = picture.convert("RGB")
    return arguments


@contextlib.contextmanager
def no_bars() -> Iterator[None]:
    """Without the progress bars of diffusers and transformers, for a while."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries: list[Any] = [diffusers_logging, transformers_logging]
    with contextlib.ExitStack() as stack:
        for library in libraries:
            if library.is_progress_bar_enabled():
                stack.callback(library.enable_progress_bar)
                library.disable_progress_bar()
        yield
