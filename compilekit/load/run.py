"""Running the sample of a loaded bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from compilekit.base.texts import summary
from compilekit.errors import BundleError, UsageError
from compilekit.load.overrides import check_overrides
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
    check_overrides(subject, loaded.manifest.sample, changes)
    arguments = {**opened(loaded.manifest.sample, loaded.folder), **opened(changes, Path())}
    seed = arguments.pop("seed", 0)
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise UsageError(f"seed: {seed!r} is no seed: write a number from 0 on")
    run = run_whole if loaded.manifest.whole is not None else _run_model
    try:
        return run(subject, arguments, seed)
    except (ValueError, TypeError, ArithmeticError, LookupError) as error:
        if not changes:
            raise
        names = ", ".join(changes)
        raise UsageError(f"the pipeline cannot take this {names}: {summary(error)}") from error


def _run_model(subject: Any, arguments: Mapping[str, Any], seed: int) -> Any:
    return Model(subject).run(arguments, seed)


def _run_module(subject: Any, loaded: Loaded, changes: Mapping[str, Any]) -> Any:
    if changes:
        raise UsageError("this bundle holds a plain module, whose inputs cannot be set here")
    if not loaded.manifest.replay:
        raise BundleError(f"{loaded.folder}: it holds no recorded call to run")
    args, kwargs = Recorded(loaded.folder, loaded.manifest).arguments(0)
    with torch.no_grad():
        return subject(*args, **kwargs)
