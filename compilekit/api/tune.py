"""`tune`: find the fastest recipe for a model on this machine."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compilekit.api.job import plugin_files, ready
from compilekit.base.arguments import path_of, refuse_uncallable
from compilekit.base.machine import this_machine
from compilekit.base.progress import Progress, Told
from compilekit.base.words import Purpose
from compilekit.errors import UsageError
from compilekit.plan.digest import digest_of
from compilekit.plugin.host import Host, given_host, load_host
from compilekit.recipe import Document, Recipe, read
from compilekit.studies.batch.search import check_source
from compilekit.studies.tune.data import Trial
from compilekit.studies.tune.result import Tuned

if TYPE_CHECKING:
    import torch

    from compilekit.engine.job import Job
    from compilekit.plan.plan import Plan
    from compilekit.report import Report


def tune(
    recipe: Recipe | str | Path | None = None,
    pipeline: Any = None,
    *,
    minutes: float = 20.0,
    for_: Purpose = "apply",
    memory: str | None = None,
    study: str | Path = "tune.study",
    inputs: Mapping[str, torch.Tensor] | None = None,
    on_trial: Callable[[Trial], None] | None = None,
    host: Host | None = None,
    progress: bool = True,
) -> Tuned:
    """Find the fastest recipe for a model on this machine, within the budgets of errors.

    recipe: one with `choices:`, of which the best are taken; or one without steps, for its sample
        and its budgets; then the installed plugins offer the steps. By default, an empty one.
    pipeline: a folder or hub id; or a function that makes the model, from a module that can be
        imported. By default, the recipe's `model:`. Each trial runs in a process of its own.
    minutes: for how long to search.
    for_: "build" to try code that is compiled ahead of time, as in bundles.
    memory: what a trial may take, "8 GB", or "90%" of the memory. By default, all
        of a GPU, or what is free.
    study: the folder that keeps every trial. If it has trials of the same model, recipe and
        machine, the search goes on with them.
    inputs, host, progress: as for `apply`.
    on_trial: called after each trial.

    A trial that crashes, hangs, runs out of memory or breaks a budget is kept with the reason, and
    the search goes on.

    >>> import compilekit as ck
    >>> ck.tune(minutes=0)
    Traceback (most recent call last):
    compilekit.errors.UsageError: minutes is 0, and must be a number above 0
    """
    if not (type(minutes) in (int, float) and 0 < minutes < math.inf):
        raise UsageError(f"minutes is {minutes!r}, and must be a number above 0")
    if for_ not in ("apply", "build"):
        raise UsageError(f'for_="{for_}": say "apply" or "build"')
    refuse_uncallable("on_trial", on_trial)
    source = str(pipeline) if isinstance(pipeline, Path) else pipeline
    check_source(source)
    host = given_host(host)
    from compilekit.studies.tune.run import Tune

    elsewhere = TrialsElsewhere(source, inputs, plugin_files(host), for_)
    return Tune(
        document=_document(recipe),
        elsewhere=elsewhere,
        host=host,
        machine=this_machine(),
        purpose=for_,
        progress=Progress(enabled=progress),
        folder=path_of(study, "a study is the path of a folder"),
        seconds=60.0 * minutes,
        memory=memory,
        model=_identity(source, inputs),
        on_trial=on_trial,
    ).run()


def _document(recipe: Recipe | str | Path | None) -> Document:
    if isinstance(recipe, Recipe):
        return recipe.draft().document
    if recipe is not None:
        return read(recipe)
    device = "cuda" if this_machine().gpus else "cpu"
    data = {"compilekit": 1, "name": "tuned", "target": {"device": device}}
    return Document("<tune>", Path(), data, {})


def _identity(source: Any, inputs: Mapping[str, torch.Tensor] | None) -> str:
    """The model and its inputs, as far as a study can tell one from another."""
    name = (
        source if isinstance(source, str | None) else f"{source.__module__}.{source.__qualname__}"
    )
    files = []
    if name and Path(name).is_dir():
        found = (path for path in sorted(Path(name).rglob("*")) if path.is_file())
        files = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in found]
    shapes = [[n, list(tensor.shape), str(tensor.dtype)] for n, tensor in (inputs or {}).items()]
    return f"{name or 'of the recipe'} {digest_of({'files': files, 'inputs': shapes})[:16]}"


@dataclass(frozen=True)
class TrialsElsewhere:
    """Applies or builds recipes in the process that unpickles it."""

    source: Callable[[], Any] | str | None
    inputs: Mapping[str, torch.Tensor] | None
    plugins: tuple[Path, ...]
    purpose: Purpose

    def job(self, recipe: Recipe, before_loading: Callable[[Plan], None]) -> Job:
        """Get ready in the process that calls this."""
        ready_ = ready(recipe, host=load_host(self.plugins), for_=self.purpose, progress=False)
        return ready_.job(self.source, self.inputs, before_loading=before_loading)

    def report(
        self,
        recipe: Recipe,
        thorough: int,
        before_loading: Callable[[Plan], None],
        say: Callable[[str], None],
    ) -> Report:
        """Apply or build the recipe, and give the report."""
        job = replace(self.job(recipe, before_loading), progress=Told(say), thorough=thorough)
        if self.purpose == "apply":
            from compilekit.engine.run import Execution

            return Execution(job).run().report
        from compilekit.build.job import BuildJob
        from compilekit.build.run import build_anew
        from compilekit.cache import settings
        from compilekit.cache.store import Cache

        # The build that follows finds its parts there.
        store = Cache(settings.folder(), settings.limit(), say)
        with tempfile.TemporaryDirectory(prefix="compilekit-trial-") as folder:
            return build_anew(BuildJob(job, Path(folder, "bundle"), store)).report
