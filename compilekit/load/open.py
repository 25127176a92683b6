"""Opening a bundle: light checks first, then the loader of its kind. Loads no torch itself."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Literal

from compilekit.base.progress import Progress
from compilekit.bundle.manifest import Manifest
from compilekit.bundle.planned import planned
from compilekit.errors import MachineError, UsageError
from compilekit.plan.whole import missing
from compilekit.plugin.host import Host

LOADING = threading.RLock()
"""Held while parts are loaded: torch reads programs in one thread only."""


def open_bundle(
    folder: Path,
    manifest: Manifest,
    *,
    host: Host,
    device: str | None,
    on_mismatch: Literal["error", "eager"],
    on_uncovered: Literal["error", "eager"],
    check: Literal["all", "code"],
    copy: bool,
    pipeline: str,
    progress: Progress,
) -> Any:
    """Check a bundle, and make it ready."""
    if manifest.whole is None:
        if pipeline:
            raise UsageError(
                f"pipeline={pipeline}: only a bundle of a whole pipeline loads as another class"
            )
        with progress.stage("importing torch", brief=True):
            from compilekit.load.parts import load, torch_device

        with LOADING:
            return load(
                folder,
                manifest,
                host=host,
                device=torch_device(device or manifest.device),
                on_mismatch=on_mismatch,
                on_uncovered=on_uncovered,
                check=check,
                copy=copy,
                progress=progress,
            )
    if "eager" in (on_mismatch, on_uncovered):
        raise UsageError("this bundle is a pipeline compiled whole: it cannot run eagerly")
    if copy:
        raise UsageError(
            "copy=True: this bundle is a pipeline compiled whole, whose own tools read its files"
        )
    if device and device != manifest.device:
        raise UsageError(
            f'device="{device}": this bundle is a pipeline compiled whole for '
            f'"{manifest.device}". Leave `device` out'
        )
    if reason := missing(host, manifest.steps[manifest.whole.step].name):
        raise MachineError(f"{folder} cannot be loaded here: {reason}")
    # The step prepares this process before torch looks for devices.
    host.prepare([planned(host, manifest, manifest.whole.step)], "load")
    with progress.stage("importing torch", brief=True):
        from compilekit.load.whole import load_whole

    return load_whole(
        folder, manifest, host=host, pipeline=pipeline, check=check, progress=progress
    )
