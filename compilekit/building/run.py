"""A build: the run of a plan in which exporting steps compile ahead of time, and a bundle."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compilekit.building.capture import BATCH, one_step, resized, settings, unknown_shapes
from compilekit.building.export import Compiled, Exporter
from compilekit.building.write import Writer, check_subject
from compilekit.bundle.constants import make_dense
from compilekit.bundle.files import staged
from compilekit.bundle.load import load
from compilekit.bundle.loaded import Built
from compilekit.bundle.manifest import NAME, Manifest
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
from compilekit.sample import images_of
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
    for module in model.modules.values():
        make_dense(module)
    with staged(target) as folder:
        run = BuildRun(plan, model, host, sample, progress, folder)
        try:
            outcome = run.execute()
            with progress.stage("writing the bundle"):
                writer = Writer(folder, plan, model, host, run.compiled)
                made = writer.write(outcome, run.remembered, run.recorded_with_references())
            run.check(made)
        except CompilekitError as error:
            error.report = run.report
            raise
        finally:
            # What was loaded from here must not be used when the folder has another name.
            run.put_python_back()
        # Last of all: a folder without it is no bundle, whatever else is in it.
        (folder / NAME).write_text(made.to_json(), encoding="utf-8")
    seconds = time.perf_counter() - start
    return Built(target, made, outcome.report, seconds, outcome.before, outcome.after)


def _check_shapes(plan: Plan, model: Model) -> None:
    problems = [
        Problem(plan.recipe.location("shapes", index, key), f"shapes[{index}].{key}", why)
        for index, key, why in unknown_shapes(model, plan.recipe.shapes)
    ]
    if problems:
        raise RecipeError(problems)


SAME = 0.01
"""How far the image of the loaded bundle may be: the same code ran on the same weights."""

LOST = "something of the model is in neither its config nor its weights"


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

    def check(self, made: Manifest) -> None:
        """Load what was written, let it answer the recorded calls, and run it once."""
        with self.progress.stage("loading the bundle again"):
            subject = load(
                self.folder,
                made,
                host=self.host,
                device=torch.device(made.device),
                on_mismatch="error",
                on_uncovered="error",
                check="code",
                progress=Progress(enabled=False),
            )
            for row in replay(self.folder, made, subject):
                if not row.ok:
                    raise VerificationError(
                        f"{row.entry}: loaded from the bundle its error is {row.error:.2g}, and "
                        f"was {row.recorded:.2g} when it was built: {LOST}"
                    )
            if self.model.is_pipeline:
                self._run_both(Model(subject))

    def _run_both(self, loaded: Model) -> None:
        """One step of the sample: what no step names is in no recorded call."""
        sample, seed = one_step(self.sample), self.plan.recipe.seed
        wanted = self.run_sample(sample)
        try:
            given = loaded.run(sample, seed)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise VerificationError(f"loaded from the bundle it does not run: {what}") from error
        here, there = images_of(wanted), images_of(given)
        if here is None or there is None:
            return
        distance = float(np.linalg.norm(there - here) / max(np.linalg.norm(here), 1e-9))
        if not distance <= SAME:
            raise VerificationError(
                f"loaded from the bundle it draws another image (relative L2 {distance:.2g}): "
                f"{LOST}"
            )

    def put_python_back(self) -> None:
        """Take compiled code out of the user's pipeline."""
        for each in self.compiled:
            each.entry.put_back(each.python)
