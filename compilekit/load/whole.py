"""Loading a bundle of a whole pipeline, and comparing its images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compilekit.base import environment
from compilekit.base.progress import Progress
from compilekit.bundle import constants
from compilekit.bundle.files import Check, checking
from compilekit.bundle.fingerprint import differences
from compilekit.bundle.loaded import Loaded, NoCopy, attach
from compilekit.bundle.manifest import REPLAY, Manifest
from compilekit.bundle.planned import planned
from compilekit.errors import BundleError, MachineError, MismatchError, ModelError
from compilekit.load.parts import blaming, misfit, warn_of
from compilekit.plan import whole
from compilekit.plugin.contexts import Context
from compilekit.plugin.host import Host
from compilekit.plugin.steps import StoredPart
from compilekit.subject.sample import images_of

SAMPLE, PICTURES = "sample", "pictures"


def load_whole(
    folder: Path, manifest: Manifest, *, host: Host, pipeline: str, check: Check, progress: Progress
) -> Any:
    """Check a bundle, compare it with this machine, and let its plugin load the pipeline."""
    assert manifest.whole is not None  # noqa: S101 - who calls looked
    row = manifest.steps[manifest.whole.step]
    step = planned(host, manifest, manifest.whole.step)
    with progress.stage(f"loading {folder}"), checking(folder, manifest, check) as finish:
        machine = {**environment.fingerprint("cpu"), **whole.fingerprint(host, row.name)}
        mismatches = differences(manifest, machine, host)
        if message := misfit(folder, mismatches):
            raise MismatchError(message)
        warn_of(folder, mismatches)
        finish()
        stored = StoredPart(
            folder=folder,
            device=torch.device("cpu"),
            constants={},
            details=dict(manifest.whole.details),
            pipeline=pipeline,
        )
        context = Context(
            step=step, components=row.components, device=manifest.device, purpose="load"
        )
        with blaming(folder, MachineError, ModelError, BundleError), torch.no_grad():
            subject = host.load_compiled(row.name, step.key, stored, context)
    attach(subject, Loaded(folder, manifest, mismatches, eager=False))
    NoCopy(folder).forbid(subject)
    return subject


def run_whole(subject: Any, arguments: Mapping[str, Any], seed: int) -> Any:
    """Run a loaded pipeline."""
    generator = torch.Generator("cpu").manual_seed(seed)
    if hasattr(subject, "set_progress_bar_config"):
        subject.set_progress_bar_config(disable=True)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        return subject(**{"generator": generator, **arguments})


def pictures_error(folder: Path, output: Any) -> float:
    """How far the images of the sample are from the reference in the bundle."""
    stored = constants.read(folder / REPLAY, torch.device("cpu"))
    drawn = images_of(output)
    if drawn is None:
        raise BundleError(f"{folder}: the sample gives no pictures to compare")
    return distance(drawn, stored[PICTURES].numpy())


def distance(drawn: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> float:
    """The relative L2 distance of two sets of images; infinite if their shapes differ."""
    if drawn.shape != reference.shape:
        return float("inf")
    return float(np.linalg.norm(drawn - reference) / max(float(np.linalg.norm(reference)), 1e-9))
