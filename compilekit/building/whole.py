"""A build whose last step exports the whole pipeline: its folder becomes the bundle."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compilekit import environment
from compilekit.building.run import Job
from compilekit.building.write import pictures_of, planned_rows
from compilekit.bundle import constants, manifest
from compilekit.bundle.files import listed
from compilekit.bundle.loaded import Built
from compilekit.bundle.whole import PICTURES, SAMPLE, distance
from compilekit.engine import Context, Run
from compilekit.errors import (
    CompilekitError,
    NonFiniteError,
    PluginContractError,
    VerificationError,
)
from compilekit.instruments import KeepState
from compilekit.loading import no_progress_bars
from compilekit.measure.images import psnr, ssim
from compilekit.report import EndToEnd
from compilekit.staging import staged
from compilekit.steps import Device, Part, PlannedStep, Purpose, StepResult

RESERVED = (manifest.NAME, manifest.SIGNATURE, manifest.REPLAY, SAMPLE)
"""What the bundle itself puts beside the files of the pipeline."""


@dataclass(frozen=True)
class WholeContext:
    """What an exporting step may ask for: `compilekit.steps.WholeContext`, implemented."""

    step: PlannedStep
    components: tuple[str, ...]
    device: Device
    sample: Mapping[str, Any]
    seed: int
    scratch: Path
    force: bool
    preflight: str
    _run: WholeRun
    purpose: Purpose = "build"

    @property
    def remembered(self) -> Mapping[str, Any]:
        """Only a loaded bundle remembers something."""
        return {}

    def replay(self, component: str, *, exact: bool = False) -> int:
        """No calls are recorded where the whole pipeline is exported."""
        del component, exact
        return 0

    @property
    def calls(self) -> tuple[Mapping[str, Any], ...]:
        """The sample in one step, in every size that the recipe names."""
        return self._run.calls() if self._run.plan.recipe.sample_arguments else ()

    def run(self, call: Mapping[str, Any]) -> Any:
        """Run the sample on the CPU with these arguments; gives what comes out."""
        return self._run.run_call(call)

    def progress(self, message: str) -> None:
        """Show what the step is doing now."""
        self._run.progress.say(self._run.title(self.step), message)

    def note(self, message: str) -> None:
        """Show a line that stays, and keep it in the report."""
        self._run.progress.note(message)
        self._run.report.warnings.append(message)


def build_whole(job: Job) -> Built:
    """Run the steps, let the last one export, and write the manifest beside what it wrote."""
    start = time.perf_counter()
    with staged(job.target) as folder, _scratch(job.target) as scratch:
        run = WholeRun(job, folder, scratch)
        try:
            part = run.export()
            made = run.manifest(part)
        except CompilekitError as error:
            error.report = run.report
            raise
        # Last of all: a folder without it is no bundle, whatever else is in it.
        (folder / manifest.NAME).write_text(made.to_json(), encoding="utf-8")
    return Built(job.target, made, run.report, time.perf_counter() - start, None, None)


def check_whole(job: Job, level: str) -> list[str]:
    """Run one check of the last step alone; gives what it noted, and raises what it finds."""
    with tempfile.TemporaryDirectory(prefix="compilekit-") as folder:
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        run = WholeRun(job, Path(folder) / "nothing", scratch, preflight=level)
        run.folder.mkdir()
        run.export()
        return run.report.warnings


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A folder on the same disk, which goes when the build ends, however it ends."""
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.scratch-", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class WholeRun(Run):
    """Runs the steps before the last, which work on the model here; the last one exports."""

    def __init__(self, job: Job, folder: Path, scratch: Path, preflight: str = "") -> None:
        super().__init__(job.plan, job.model, job.host, job.sample, job.progress)
        self.folder = folder
        self.scratch = scratch
        self.force = job.force
        self.preflight = preflight
        self._part = Part()

    def export(self) -> Part:
        """Run them all."""
        with torch.random.fork_rng(devices=[]):
            for step in self.plan.steps[:-1]:
                self._step(step, self._around())
            self._step(self.plan.steps[-1], [KeepState()])
        if not self.preflight:
            self._judge(self._part)
        return self._part

    def _perform(self, step: PlannedStep, context: Context) -> Any:
        if step is not self.plan.steps[-1]:
            return super()._perform(step, context)
        whole = WholeContext(
            step=step,
            components=context.components,
            device=context.device,
            sample=dict(self.sample) if self.plan.recipe.sample_arguments else {},
            seed=self.plan.recipe.seed,
            scratch=self.scratch,
            force=self.force,
            preflight=self.preflight,
            _run=self,
        )
        with no_progress_bars():
            self._part = self.host.export(step, self.model, self.folder, whole)
        names = {name: [type(module).__name__] for name, module in self.model.modules.items()}
        return StepResult(matched=names, changed=names, details=dict(self._part.details))

    def _judge(self, part: Part) -> None:
        """Compare pictures, where there are any; say so where there are none."""
        step = self.plan.steps[-1]
        taken = [name for name in RESERVED if (self.folder / name).exists()]
        if taken or not any(self.folder.iterdir()):
            what = f"wrote {taken[0]}, which is compilekit's" if taken else "wrote nothing"
            raise PluginContractError(f"{step.key}: export {what}")
        if part.reference is None or part.drawn is None:
            self.report.warnings.append(
                f"{step.key}: what it compiled has not run here, so its pictures were not "
                "compared; `compilekit verify --replay` does that where it can run"
                if part.reference is not None
                else f"{step.key}: there is no sample's picture to compare with"
            )
            return
        if not np.isfinite(part.drawn).all():
            raise NonFiniteError(f"{step.key}: a picture that it draws holds NaN or infinity")
        if part.drawn.shape != part.reference.shape:
            raise VerificationError(
                f"{step.key}: it draws pictures of shape {part.drawn.shape}, and the pipeline "
                f"draws {part.reference.shape}"
            )
        self.report.end_to_end = EndToEnd(
            seconds_before=float(part.details.get("seconds_before", 0.0)),
            seconds_after=float(part.details.get("seconds_after", 0.0)),
            psnr=psnr(part.reference, part.drawn),
            ssim=ssim(part.reference, part.drawn),
        )
        error = distance(part.drawn, part.reference)
        if not error <= step.budget:
            raise VerificationError(
                f"{step.key}: its pictures are {error:.2g} away from those of the pipeline that is "
                f"not compiled (relative L2), over its budget {step.budget:g}"
            )
        self.gate()

    def manifest(self, part: Part) -> manifest.Manifest:
        """What the bundle says of itself."""
        step = self.plan.steps[-1]
        sample = pictures_of(self.plan, self.folder)
        if part.reference is not None:
            tensor = torch.from_numpy(np.ascontiguousarray(part.reference, dtype=np.float32))
            constants.save({PICTURES: tensor}, self.folder / manifest.REPLAY)
        drawn = (
            None
            if part.reference is None or part.drawn is None
            else (distance(part.drawn, part.reference))
        )
        made = manifest.Manifest(
            compilekit_bundle=1,
            compilekit=environment.installed_version("compilekit") or "",
            name=self.plan.recipe.name,
            device=self.plan.device,
            digest=self.plan.digest,
            recipe=self.plan.to_dict(),
            sample=sample,
            kind="pipeline",
            class_name=type(self.model.subject).__name__,
            components=(),
            entries=(),
            parts=(),
            # They made what was compiled: none of them runs again.
            steps=tuple(
                row.model_copy(update={"again": "never"})
                for row in planned_rows(self.plan, self.host, {})
            ),
            plugins={s.name: self.host.plugins[s.name].version for s in self.plan.steps},
            fingerprint={**environment.fingerprint("cpu"), **part.fingerprint},
            report=self.report.model_dump(mode="json", fallback=str),
            whole=manifest.Whole(
                step=self.plan.steps.index(step),
                details=dict(part.details),
                reference=part.reference is not None,
                error=drawn,
            ),
            files=tuple(listed(self.folder)),
        )
        # Whoever loads it checks more than was checked while it was put together.
        return manifest.Manifest.parse(made.to_json().encode())
