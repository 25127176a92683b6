"""Running the sample of a loaded bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from compilekit.errors import BundleError, UsageError
from compilekit.load.verify import Recorded
from compilekit.load.whole import run_whole
from compilekit.subject.model import Model
from compilekit.subject.sample import opened

if TYPE_CHECKING:
    from compilekit.bundle.loaded import Loaded


def run_sample(subject: Any, loaded: Loaded, changes: Mapping[str, Any]) -> Any:
    """Run the sample once; `changes` replace its arguments."""
    if loaded.manifest.kind == "module":
        return _run_module(subject, loaded, changes)
    arguments = {**opened(loaded.manifest.sample, loaded.folder), **opened(changes, Path())}
    seed = arguments.pop("seed", 0)
    if not isinstance(seed, int) or seed < 0:
        raise UsageError(f"seed: {seed!r} is no seed: write a number from 0 on")
    if loaded.manifest.whole is not None:
        return run_whole(subject, arguments, seed)
    return Model(subject).run(arguments, seed)


def _run_module(subject: Any, loaded: Loaded, changes: Mapping[str, Any]) -> Any:
    if changes:
        raise UsageError("this bundle holds a plain module, whose inputs cannot be set here")
    if not loaded.manifest.replay:
        raise BundleError(f"{loaded.folder}: it holds no recorded call to run")
    args, kwargs = Recorded(loaded.folder, loaded.manifest).arguments(0)
    with torch.no_grad():
        return subject(*args, **kwargs)
