"""A build: look into the cache, let the plan's exporter work, and name the finished bundle."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from compilekit.base.staging import staged
from compilekit.build.check import check_subject
from compilekit.build.job import BuildJob, Exporter
from compilekit.build.keys import bundle_key, key_for
from compilekit.build.parts import PartsExporter
from compilekit.build.whole import WholeExporter
from compilekit.bundle.constants import make_dense
from compilekit.bundle.loaded import Built
from compilekit.bundle.manifest import NAME, Manifest
from compilekit.cache.store import Cache
from compilekit.engine.job import Job
from compilekit.errors import CompilekitError
from compilekit.plugin.steps import PlannedStep
from compilekit.report import Report
from compilekit.subject.sizes import check_shapes


def build(order: BuildJob) -> Built:
    """Run a plan and write the bundle; or copy it, if the same was built before."""
    job, cache = order.job, order.cache
    _check(job)
    what = "the bundle as a whole"
    key = key_for(cache, what, lambda: bundle_key(job.plan, job.model, job.host))
    if cache is None or key is None:
        return _built(order)
    start = time.perf_counter()
    with cache.working_on("bundle", key.digest, order.target.name):
        built = _copied(cache, key.digest, order, start)
        if built is None:
            built = _built(order)
            title = f"{job.plan.recipe.name} on {job.plan.device}"
            cache.store(
                "bundle",
                key.digest,
                {"": order.target},
                title=title,
                seconds=built.seconds,
                data={},
                inputs=key.inputs,
            )
    return built


def build_anew(order: BuildJob) -> Built:
    """Run a plan and write the bundle, with numbers of now; parts may come from the cache."""
    _check(order.job)
    return _built(order)


def _check(job: Job) -> None:
    check_subject(job.model)
    check_shapes(job.plan, job.model)
    for module in job.model.modules.values():
        make_dense(module)


def exporter_of(order: BuildJob, folder: Path) -> Exporter:
    """The exporter of a plan: of entry points, or of the whole pipeline."""
    kind = PartsExporter if order.job.plan.whole is None else WholeExporter
    return kind(order, folder)


def replay(job: Job, scratch: Path, step: PlannedStep | None) -> None:
    """Run one step of a build again, or all of it, without making a bundle."""
    exporter_of(BuildJob(job, scratch, None), scratch).replay(step)


def _copied(cache: Cache, key: str, order: BuildJob, start: float) -> Built | None:
    """The same bundle from the cache; the user's pipeline stays as it is."""
    with contextlib.suppress(_NotThere), staged(order.target) as folder:
        with order.job.progress.stage("looking into the build cache"):
            if cache.fetch("bundle", key, folder) is None:
                raise _NotThere
        manifest = Manifest.read(folder)
        report = Report.model_validate(manifest.report)
        seconds = time.perf_counter() - start
        parts = len(manifest.parts) or int(manifest.whole is not None)
        return Built(order.target, manifest, report, seconds, None, None, reused=parts)
    return None


class _NotThere(Exception):  # noqa: N818 - nothing is wrong
    """The cache has no such bundle."""


def _built(order: BuildJob) -> Built:
    start = time.perf_counter()
    with staged(order.target) as folder:
        exporter = exporter_of(order, folder)
        try:
            outcome, manifest = exporter.export()
        except CompilekitError as error:
            error.report = exporter.execution.report
            raise
        # The manifest comes last: a folder without it is no bundle.
        (folder / NAME).write_bytes(manifest.to_json().encode())
    return Built(
        order.target,
        manifest,
        outcome.report,
        time.perf_counter() - start,
        outcome.before,
        outcome.after,
        reused=exporter.reused,
    )
