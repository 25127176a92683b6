"""A build: the run of a plan in which exporting steps compile ahead of time, and a bundle."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compilekit.building.capture import settings
from compilekit.building.export import Compiled, Exporter
from compilekit.building.keys import NoKeyError, bundle_key
from compilekit.building.reuse import Reuse
from compilekit.building.write import Writer, check_subject
from compilekit.bundle.constants import make_dense
from compilekit.bundle.load import load
from compilekit.bundle.loaded import Built
from compilekit.bundle.manifest import NAME, Manifest
from compilekit.bundle.verify import replay
from compilekit.cache.store import Cache
from compilekit.engine import Context, Run
from compilekit.errors import (
    CompilekitError,
    StepError,
    VerificationError,
)
from compilekit.host import Host
from compilekit.model import Model
from compilekit.plan import Plan
from compilekit.progress import Progress
from compilekit.report import Report
from compilekit.sample import images_of
from compilekit.sizes import BATCH, check_shapes, one_step, resized_inputs
from compilekit.staging import staged
from compilekit.steps import PlannedStep, StepResult


@dataclass(frozen=True)
class Job:
    """What is to be built, and where."""

    plan: Plan
    model: Model
    host: Host
    sample: Mapping[str, Any]
    progress: Progress
    target: Path
    cache: Cache | None
    force: bool = False


def build(job: Job) -> Built:
    """Run a plan, and write the bundle; or copy it, where the same was built before."""
    plan, cache = job.plan, job.cache
    check_subject(job.model)
    check_shapes(plan, job.model)
    for module in job.model.modules.values():
        make_dense(module)
    key = _key(job)
    if cache is None or key is None:
        return _built(job)
    start = time.perf_counter()
    with cache.working_on("bundle", key, job.target.name):
        built = _copied(cache, key, job, start)
        if built is None:
            built = _built(job)
            title = f"{plan.recipe.name} on {plan.device}"
            cache.store(
                "bundle", key, {"": job.target}, title=title, seconds=built.seconds, data={}
            )
    return built


def _key(job: Job) -> str | None:
    if job.cache is None:
        return None
    try:
        return bundle_key(job.plan, job.model, job.host)
    except NoKeyError as error:
        job.cache.note(f"the bundle as a whole is not cached: {error}")
        return None


def _copied(cache: Cache, key: str, job: Job, start: float) -> Built | None:
    """The same bundle, from the cache; the pipeline that was passed in stays as it is."""
    with contextlib.suppress(_NotThere), staged(job.target) as folder:
        with job.progress.stage("looking into the build cache"):
            if cache.fetch("bundle", key, folder) is None:
                raise _NotThere
        made = Manifest.read(folder)
        report = Report.model_validate(made.report)
        seconds = time.perf_counter() - start
        parts = len(made.parts) or int(made.whole is not None)
        return Built(job.target, made, report, seconds, None, None, reused=parts)
    return None


class _NotThere(Exception):  # noqa: N818 - nothing is wrong
    """The cache has no such bundle."""


def _built(job: Job) -> Built:
    if job.plan.whole is not None:
        from compilekit.building.whole import build_whole

        return build_whole(job)
    start = time.perf_counter()
    with staged(job.target) as folder:
        run = BuildRun(job, folder)
        try:
            outcome = run.execute()
            with job.progress.stage("writing the bundle"):
                writer = Writer(folder, job.plan, job.model, job.host, run.compiled)
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
    reused = len({m.row.folder for c in run.compiled for m in c.parts if m.cached})
    return Built(
        job.target, made, outcome.report, seconds, outcome.before, outcome.after, reused=reused
    )


SAME = 0.01
"""How far the image of the loaded bundle may be: the same code ran on the same weights."""

LOST = "something of the model is in neither its config nor its weights"


class BuildRun(Run):
    """Runs a plan; where a step exports, that takes the place of changing the model."""

    def __init__(self, job: Job, folder: Path) -> None:
        super().__init__(job.plan, job.model, job.host, job.sample, job.progress)
        self.folder = folder
        self.reuse = Reuse(job.plan, job.host, job.cache)
        self.compiled: list[Compiled] = []
        self.remembered: dict[int, Mapping[str, Any]] = {}

    def run_sample(self, sample: Mapping[str, Any]) -> Any:
        """Run the sample, or one like it; a plain module has its inputs, of another size maybe."""
        if self.model.is_pipeline or BATCH not in sample:
            return super().run_sample(sample)
        with resized_inputs(self.model, int(sample[BATCH])):
            return super().run_sample({})

    def _perform(self, step: PlannedStep, context: Context) -> StepResult:
        if not step.description.exports:
            result = super()._perform(step, context)
            self.remembered[step.index] = result.remembered
            return result
        position = self.plan.steps.index(step)
        sizes = self.host.sizes(step)
        exporter = Exporter(
            step, position, context, self.model, self.host, self.folder, sizes, self.reuse
        )
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
