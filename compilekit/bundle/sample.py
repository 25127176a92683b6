"""The sample of a bundle, run by what was loaded from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from compilekit.bundle import constants
from compilekit.bundle.calls import Rebuilder
from compilekit.errors import BundleError, UsageError
from compilekit.model import Model
from compilekit.sample import opened

if TYPE_CHECKING:
    from compilekit.bundle.loaded import Loaded

REPLAY = "replay.safetensors"


def run_sample(subject: Any, loaded: Loaded, given: Mapping[str, Any]) -> Any:
    """Run the sample once; `given` arguments take the place of its own."""
    if loaded.manifest.kind == "module":
        return _run_module(subject, loaded, given)
    own = opened(loaded.manifest.sample, loaded.folder)
    arguments = {**own, **opened(given, Path())}
    seed = arguments.pop("seed", 0)
    if not isinstance(seed, int) or seed < 0:
        raise UsageError(f"seed: {seed!r} is no seed: write a number from 0 on")
    return Model(subject).run(arguments, seed)


def _run_module(subject: Any, loaded: Loaded, given: Mapping[str, Any]) -> Any:
    if given:
        raise UsageError("this bundle holds a plain module, whose inputs cannot be set here")
    if not loaded.manifest.replay:
        raise BundleError(f"{loaded.folder}: it holds no recorded call to run")
    stored = constants.read(loaded.folder / REPLAY, torch.device("cpu"))
    count = sum(name.startswith("0.in.") for name in stored)
    device = torch.device(loaded.manifest.device)
    tensors = [stored[f"0.in.{index}"].to(device) for index in range(count)]
    args, kwargs = Rebuilder(loaded.manifest.replay[0].arguments)(tensors)
    with torch.no_grad():
        return subject(*args, **kwargs)
