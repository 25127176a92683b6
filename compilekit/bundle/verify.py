"""The recorded calls of a bundle, answered again by what was loaded from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compilekit.bundle import constants
from compilekit.bundle.calls import Rebuilder
from compilekit.bundle.manifest import Manifest
from compilekit.errors import BundleError, CompilekitError
from compilekit.measure.compare import compare
from compilekit.model import Model, cuda_devices
from compilekit.reference import outputs_of

FILE = "replay.safetensors"
SLACK, FLOOR = 1.5, 1e-5
"""How much larger the error may be than it was: other threads sum in another order."""


@dataclass(frozen=True)
class Replayed:
    """A recorded call: its error against the reference when it was built, and now."""

    entry: str
    recorded: float
    error: float

    @property
    def ok(self) -> bool:
        """Whether it is as it was."""
        return self.error <= SLACK * self.recorded + FLOOR


def replay(folder: Path, manifest: Manifest, subject: Any) -> Iterator[Replayed]:
    """Answer every recorded call."""
    if not manifest.replay:
        return
    stored = constants.read(folder / FILE, torch.device("cpu"))
    model = Model(subject, inputs={"": torch.empty(0)})
    device = torch.device(manifest.device)
    for number, row in enumerate(manifest.replay):
        try:
            given = _tensors(stored, f"{number}.in.", device)
            wanted = _tensors(stored, f"{number}.out.", torch.device("cpu"))
            args, kwargs = Rebuilder(row.arguments)(given)
        except (IndexError, TypeError, ValueError) as error:
            raise BundleError(f"{folder / FILE}: call {number} is incomplete") from error
        with torch.no_grad(), torch.random.fork_rng(devices=cuda_devices()):
            torch.manual_seed(row.seed)
            try:
                output = outputs_of(model.entry_point(row.entry)(*args, **kwargs))
            except CompilekitError as error:
                raise BundleError(f"replay of {row.entry}: {error}") from error
        now = compare([tensor for _, tensor in output], wanted).relative_l2
        yield Replayed(row.entry, row.error, now)


def _tensors(
    stored: dict[str, torch.Tensor], prefix: str, device: torch.device
) -> list[torch.Tensor]:
    found = {
        int(name.removeprefix(prefix)): tensor
        for name, tensor in stored.items()
        if name.startswith(prefix)
    }
    return [found[index].to(device) for index in sorted(found)]
