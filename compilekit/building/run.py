"""A build: the run of a plan in which exporting steps compile ahead of time, and a bundle."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from compilekit.building.capture import BATCH, resized, settings, unknown_shapes
from compilekit.building.export import Compiled, Exporter
from compilekit.building.write import Writer, check_subject
from compilekit.bundle.files import staged
from compilekit.bundle.load import load
from compilekit.bundle.loaded import Built
from compilekit.bundle.manifest import Manifest
from compilekit.bundle.verify import replay
from compilekit.engine import Context, Run
from compilekit.errors import (
    CompilekitError,
    Problem,
    RecipeError,
    StepError,
    VerificationError,
)
from compilekit.host import Host
from compilekit.model import Model
from compilekit.plan import Plan
from compilekit.progress import Progress
from compilekit.steps import PlannedStep, StepResult


def build(
    plan: Plan,
    model: Model,
    host: Host,
    sample: Mapping[str, Any],
    progress: Progress,
    target: Path,
) -> Built:
    """Run a plan, and write the bundle."""
    start = time.perf_counter()
    check_subject(model)
    _check_shapes(plan, model)
    with staged(target) as folder:
        run = BuildRun(plan, model, host, sample, progress, folder)
        outcome = run.execute()
        with progress.stage("writing the bundle"):
            writer = Writer(folder, plan, model, host, run.compiled)
            made = writer.write(outcome, run.remembered, run.recorded_with_references())
        try:
            _check(folder, host, made, progress)
        except CompilekitError as error:
            error.report = run.report
            raise
    seconds = time.perf_counter() - start
    return Built(target, made, outcome.report, seconds, outcome.before, outcome.after)


def _check_shapes(plan: Plan, model: Model) -> None:
    problems = [
        Problem(plan.recipe.location("shapes", index, key), f"shapes[{index}].{key}", why)
        for index, key, why in unknown_shapes(model, plan.recipe.shapes)
    ]
    if problems:
        raise RecipeError(problems)


def _check(folder: Path, host: Host, made: Manifest, progress: Progress) -> None:
    """Load what was written, and let it answer the recorded calls."""
    quiet = Progress(enabled=False)
    device = torch.device(made.device)
    with progress.stage("loading the bundle again"):
        subject = load(
            folder,
            host=host,
            device=device,
            on_mismatch="error",
            on_uncovered="error",
            check="code",
            progress=quiet,
        )
        for row in replay(folder, made, subject):
            if not row.ok:
                raise VerificationError(
                    f"{row.entry}: loaded from the bundle its error is {row.error:.2g}, and was "
                    f"{row.recorded:.2g} when it was built: something of the model is in neither "
                    "its config nor its weights"
                )


class BuildRun(Run):
    """Runs a plan; where a step exports, that takes the place of changing the model."""

    def __init__(
        self,
        plan: Plan,
        model: Model,
        host: Host,
        sample: Mapping[str, Any],
        progress: Progress,
        folder: Path,
    ) -> None:
        super().__init__(plan, model, host, sample, progress)
        self.folder = folder
        self.compiled: list[Compiled] = []
        self.remembered: dict[int, Mapping[str, Any]] = {}

    def run_sample(self, sample: Mapping[str, Any]) -> Any:
        """Run the sample, or one like it; a plain module has its inputs, of another size maybe."""
        if self.model.is_pipeline or BATCH not in sample:
            return super().run_sample(sample)
        own = self.model.inputs
        self.model.inputs = resized(own, int(sample[BATCH]))
        try:
            return super().run_sample({})
        finally:
            self.model.inputs = own

    def _perform(self, step: PlannedStep, context: Context) -> StepResult:
        if not step.description.exports:
            result = super()._perform(step, context)
            self.remembered[step.index] = result.remembered
            return result
        position = self.plan.steps.index(step)
        sizes = self.host.sizes(step)
        exporter = Exporter(step, position, context, self.model, self.host, self.folder, sizes)
        runs = [dict(self.sample)]
        if sizes != "one":
            runs = settings(self.model, self.sample, self.plan.recipe.shapes)
        elif self.plan.recipe.shapes:
            raise StepError(
                f"{step.key}: with these options a part serves calls of one size, and the recipe "
                "has `shapes:`; leave one of the two out"
            )
        result, compiled = exporter.run(runs, self.run_sample)
        self.compiled += compiled
        return result
