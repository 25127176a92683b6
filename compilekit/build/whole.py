"""The exporter of a whole pipeline: the last step writes a folder, which becomes the bundle."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from compilekit.base import environment
from compilekit.build.job import BuildJob
from compilekit.build.write import manifest_of
from compilekit.bundle import constants, manifest
from compilekit.engine.instruments import KeepState
from compilekit.engine.run import Execution, Outcome, optimize
from compilekit.errors import NonFiniteError, PluginContractError, VerificationError
from compilekit.load.whole import PICTURES, SAMPLE, distance
from compilekit.measure.images import psnr, ssim
from compilekit.plugin.contexts import StepContext, WholeContext
from compilekit.plugin.steps import Part, PlannedStep, StepResult
from compilekit.report import EndToEnd
from compilekit.subject.load import no_progress_bars

RESERVED = (manifest.NAME, manifest.SIGNATURE, manifest.REPLAY, SAMPLE)
"""The files of the bundle itself, beside those of the pipeline."""


class WholeExporter:
    """Runs the steps before the last one on the model here; the last one exports the pipeline."""

    reused = 0
    """Parts from the build cache: a whole pipeline is cached as a bundle."""

    def __init__(self, order: BuildJob, folder: Path, preflight: str = "") -> None:
        self.order = order
        self.folder = folder
        self.plan = order.job.plan
        self.model = order.job.model
        self.preflight = preflight
        self.execution = Execution(order.job, self._perform)
        self.report = self.execution.report
        self._scratch = Path()
        self._part = Part()

    def export(self) -> tuple[Outcome, manifest.Manifest]:
        """Run the steps, judge what the last one exported, and say what the bundle holds."""
        target = self.order.target
        with tempfile.TemporaryDirectory(
            prefix=f".{target.name}.scratch-", dir=target.parent, ignore_cleanup_errors=True
        ) as scratch:
            self._scratch = Path(scratch)
            self._run_steps()
            return Outcome(self.report, None, None), self._manifest(self._judge())

    def replay(self, step: PlannedStep | None) -> None:
        """Run the steps again, up to the one that failed, and keep nothing."""
        with tempfile.TemporaryDirectory(prefix="compilekit-") as scratch:
            self._scratch = Path(scratch)
            self._run_steps(until=step)

    def check(self) -> list[str]:
        """Run the step's one check named by `preflight`; returns its notes."""
        self.replay(None)
        return self.report.warnings

    def _run_steps(self, until: PlannedStep | None = None) -> None:
        with self.execution.guarded():
            for step in self.plan.steps:
                is_last = step is self.plan.steps[-1]
                instruments = [KeepState()] if is_last else self.execution.instruments()
                self.execution.perform(step, instruments)
                if step is until:
                    return

    def _perform(self, run: Execution, step: PlannedStep, context: StepContext) -> StepResult:
        if step is not self.plan.steps[-1]:
            return optimize(run, step, context)
        whole = WholeContext(
            **vars(context),
            sample=dict(run.sample) if self.plan.recipe.sample_arguments else {},
            seed=self.plan.recipe.seed,
            scratch=self._scratch,
            force=self.order.force,
            preflight=self.preflight,
            keep_note=self._note,
        )
        with no_progress_bars():
            self._part = run.host.export(step, self.model, self.folder, whole)
        names = {name: [type(module).__name__] for name, module in self.model.modules.items()}
        return StepResult(matched=names, changed=names, details=dict(self._part.details))

    def _note(self, message: str) -> None:
        self.order.job.progress.note(message)
        self.report.warnings.append(message)

    def _judge(self) -> float | None:
        """Compare the images, and return their distance; note it if there are none."""
        step, part = self.plan.steps[-1], self._part
        if self.plan.recipe.verify.min_speedup:
            self.report.warnings.append(
                f"min_speedup was not checked: {step.key} compiled the pipeline as a whole, and "
                "such a pipeline is not timed beside the model as loaded"
            )
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
            return None
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
        self.execution.gate()
        return error

    def _manifest(self, error: float | None) -> manifest.Manifest:
        part = self._part
        if part.reference is not None:
            tensor = torch.from_numpy(np.ascontiguousarray(part.reference, dtype=np.float32))
            constants.save({PICTURES: tensor}, self.folder / manifest.REPLAY)
        return manifest_of(
            self.folder,
            self.order.job,
            self.report,
            remembered={},
            components=(),
            entries=(),
            parts=(),
            fingerprint={**environment.fingerprint("cpu"), **part.fingerprint},
            whole=manifest.Whole(
                step=len(self.plan.steps) - 1,
                details=dict(part.details),
                reference=part.reference is not None,
                error=error,
            ),
        )


def check_whole(order: BuildJob, level: str) -> list[str]:
    """Run one check of the step that exports the whole pipeline; returns its notes."""
    with tempfile.TemporaryDirectory(prefix="compilekit-") as folder:
        return WholeExporter(order, Path(folder), preflight=level).check()
