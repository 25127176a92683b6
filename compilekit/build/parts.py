"""The exporter of entry points: each step that exports compiles parts, which replace Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from compilekit.base.progress import Progress
from compilekit.build.capture import settings
from compilekit.build.export import Compiled, Export
from compilekit.build.job import BuildJob
from compilekit.build.reuse import Reuse
from compilekit.build.write import Writer
from compilekit.bundle.manifest import Manifest
from compilekit.engine.run import Execution, Outcome, optimize
from compilekit.errors import SealedError, StepError, VerificationError
from compilekit.load.parts import load
from compilekit.load.verify import replay
from compilekit.load.whole import distance
from compilekit.plugin.contexts import StepContext
from compilekit.plugin.steps import PlannedStep, StepResult
from compilekit.subject.model import Model
from compilekit.subject.sample import images_of
from compilekit.subject.sizes import one_step

SAME = 0.01
"""How far the loaded bundle's image may be: the same code ran on the same weights."""

LOST = "something of the model is in neither its config nor its weights"


class PartsExporter:
    """Runs a plan; a step that exports compiles parts in place of changing the model."""

    def __init__(self, order: BuildJob, folder: Path) -> None:
        self.job = order.job
        self.folder = folder
        self.execution = Execution(order.job, self._perform)
        self._reuse = Reuse(order.job.plan, order.job.host, order.cache)
        self._compiled: list[Compiled] = []
        self._remembered: dict[int, Mapping[str, Any]] = {}

    @property
    def reused(self) -> int:
        """How many parts come from the build cache."""
        parts = [part for compiled in self._compiled for part in compiled.parts]
        return len({part.row.folder for part in parts if part.cached})

    def export(self) -> tuple[Outcome, Manifest]:
        """Run the plan, write the bundle, load it, and compare."""
        try:
            outcome = self.execution.run()
            with self.job.progress.stage("writing the bundle"):
                recorded = self.execution.recorded_with_references()
                writer = Writer(self.folder, self.job, self._compiled)
                manifest = writer.write(outcome.report, self._remembered, recorded)
            self._check(manifest)
        finally:
            # Parts were loaded from a folder that is about to be renamed or removed.
            for compiled in self._compiled:
                compiled.entry.put_back(compiled.python)
        return outcome, manifest

    def replay(self, step: PlannedStep | None) -> None:
        """Run one step again, or the whole plan, and keep nothing."""
        if step is None:
            self.execution.run()
        else:
            self.execution.run_alone(step)

    def _perform(self, run: Execution, step: PlannedStep, context: StepContext) -> StepResult:
        if not step.description.exports:
            result = optimize(run, step, context)
            self._remembered[step.index] = result.remembered
            return result
        plan, host = run.plan, run.host
        sizes = host.sizes(step)
        calls = [dict(run.sample)]
        if sizes != "one":
            calls = settings(run.model, run.sample, plan.recipe.shapes)
        elif plan.recipe.shapes:
            raise StepError(
                f"{step.key}: with these options a part serves calls of one size, and the recipe "
                "has `shapes:`. Leave one of the two out"
            )
        export = Export(
            step, plan.steps.index(step), context, run.model, host, self.folder, sizes, self._reuse
        )
        result, compiled = export.run(calls, run.run_sample)
        self._compiled += compiled
        return result

    def _check(self, manifest: Manifest) -> None:
        """Load the written bundle, let it answer the recorded calls, and run it once."""
        with self.job.progress.stage("loading the bundle again"):
            subject = load(
                self.folder,
                manifest,
                host=self.job.host,
                device=torch.device(manifest.device),
                on_mismatch="error",
                on_uncovered="error",
                check="code",
                progress=Progress(enabled=False),
            )
            for row in replay(self.folder, manifest, subject):
                if not row.ok:
                    raise VerificationError(
                        f"{row.entry}: loaded from the bundle its error is {row.error:.2g}; it "
                        f"was {row.recorded:.2g} when it was built: {LOST}"
                    )
            if self.job.model.is_pipeline:
                self._run_both(Model(subject))

    def _run_both(self, loaded: Model) -> None:
        """Compare one denoising step: components that no step names have no recorded calls."""
        sample = one_step(self.execution.model, self.execution.sample)
        seed = self.job.plan.recipe.seed
        reference = images_of(self.execution.run_sample(sample))
        try:
            drawn = images_of(loaded.run(sample, seed))
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            if isinstance(error, SealedError):
                what = f"each call of the pipeline changes what is compiled: {what}"
            raise VerificationError(f"loaded from the bundle it does not run: {what}") from error
        if reference is None or drawn is None:
            return
        difference = distance(drawn, reference)
        if not difference <= SAME:
            raise VerificationError(
                f"loaded from the bundle it draws another image (relative L2 {difference:.2g}): "
                f"{LOST}"
            )
