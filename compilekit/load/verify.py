"""Replaying the recorded calls of a bundle on the loaded model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compilekit.base.texts import summary
from compilekit.bundle import constants
from compilekit.bundle.calls import Rebuilder
from compilekit.bundle.manifest import REPLAY, Manifest, Whole
from compilekit.engine.reference import outputs_of
from compilekit.errors import BundleError
from compilekit.load.parts import model_of
from compilekit.measure.compare import compare
from compilekit.subject.model import cuda_devices
from compilekit.subject.sample import opened

SLACK, FLOOR = 1.5, 1e-5
"""How much the error may grow: another number of threads sums in another order."""


@dataclass(frozen=True)
class Replayed:
    """A recorded call: its error against the reference at the build, and now."""

    entry: str
    recorded: float
    error: float

    @property
    def ok(self) -> bool:
        """Whether the error is about as it was."""
        return self.error <= SLACK * self.recorded + FLOOR


def replay(folder: Path, manifest: Manifest, subject: Any) -> Iterator[Replayed]:
    """Replay every recorded call; a pipeline that was compiled whole runs its sample."""
    if manifest.whole is not None:
        if manifest.whole.reference:
            yield _drawn(folder, manifest, manifest.whole, subject)
        return
    calls = Recorded(folder, manifest)
    model = model_of(subject)
    for number, row in enumerate(manifest.replay):
        args, kwargs = calls.arguments(number)
        with torch.no_grad(), torch.random.fork_rng(devices=cuda_devices()):
            torch.manual_seed(row.seed)
            try:
                output = outputs_of(model.entry_point(row.entry)(*args, **kwargs))
            except Exception as error:
                raise BundleError(f"replay of {row.entry}: {summary(error)}") from error
        now = compare([tensor for _, tensor in output], calls.reference(number)).relative_l2
        yield Replayed(row.entry, row.error, now)


def _drawn(folder: Path, manifest: Manifest, whole: Whole, subject: Any) -> Replayed:
    """Compare the sample's images. If the build drew none, the step's budget is the limit."""
    from compilekit.load.whole import pictures_error, run_whole

    arguments = {**opened(manifest.sample, folder), "output_type": "np"}
    seed = arguments.pop("seed", 0)
    error = pictures_error(folder, run_whole(subject, arguments, seed))
    steps: Any = manifest.recipe["steps"]
    budget = next(iter(steps[whole.step].values()))["budget"]
    return Replayed("the sample's pictures", budget if whole.error is None else whole.error, error)


class Recorded:
    """The recorded calls of a bundle, as its replay file holds them."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._path = folder / REPLAY
        self._manifest = manifest
        self._device = torch.device(manifest.device)
        self._stored = constants.read(self._path, torch.device("cpu")) if manifest.replay else {}

    def arguments(self, number: int) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call, on the bundle's device."""
        tensors = [tensor.to(self._device) for tensor in self._tensors(f"{number}.in.")]
        try:
            args, kwargs = Rebuilder(self._manifest.replay[number].arguments)(tensors)
        except (IndexError, TypeError, ValueError) as error:
            raise BundleError(f"{self._path}: call {number} is incomplete") from error
        return args, kwargs

    def reference(self, number: int) -> list[torch.Tensor]:
        """The outputs of the reference."""
        return self._tensors(f"{number}.out.")

    def _tensors(self, prefix: str) -> list[torch.Tensor]:
        names = (name for name in self._stored if name.startswith(prefix))
        order = sorted(names, key=lambda name: int(name.removeprefix(prefix)))
        return [self._stored[name] for name in order]
