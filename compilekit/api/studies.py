"""The verbs that study a recipe on a model: `bisect`, `explain`, `largest_batch`, `bench`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compilekit.api.job import JobElsewhere, plugin_files, ready
from compilekit.base.arguments import refuse_uncallable
from compilekit.base.progress import Progress
from compilekit.errors import UsageError, VerificationError
from compilekit.plan.plan import plan
from compilekit.plugin.host import Host
from compilekit.recipe import Recipe
from compilekit.studies.batch.data import Batches, BatchTrial
from compilekit.studies.batch.search import check_source
from compilekit.studies.bench.order import Order
from compilekit.studies.bench.result import Bench
from compilekit.studies.bench.slowdown import share_of
from compilekit.studies.bench.text import AS_LOADED, too_slow
from compilekit.studies.bisect.blame import Blame
from compilekit.studies.explain.explanation import Explanation
from compilekit.subject.load import is_function

if TYPE_CHECKING:
    import torch


def bisect(
    recipe: Recipe | str | Path,
    make: Callable[[], Any] | str | Path | None = None,
    *,
    check: Callable[[Any], bool] | None = None,
    inputs: Mapping[str, torch.Tensor] | None = None,
    host: Host | None = None,
    progress: bool = True,
) -> Blame:
    """Find the step of a recipe, its component and block that breaks a budget or a check.

    make: a function that returns a fresh pipeline or module; or a folder or hub id, which is
        loaded for each trial. By default, the recipe's `model:`.
    check: gets the sample's output, and returns whether it is good. By default, the budgets of
        the steps and of the recipe's `verify` decide.
    inputs, host, progress: as for `apply`.

    >>> import compilekit as ck
    >>> import torch
    >>> recipe = ck.Recipe.from_steps("precision{dtype=bfloat16, budget=1e-9}")
    >>> inputs = {"input": torch.linspace(0, 1, 8).reshape(1, 8)}
    >>> blame = ck.bisect(recipe, lambda: torch.nn.Linear(8, 8), inputs=inputs, progress=False)
    >>> blame.step, blame.component
    ('steps[0].precision', 'model')
    """
    refuse_uncallable("check", check)
    ready_ = ready(recipe, host=host, progress=progress)

    quiet = replace(ready_, progress=Progress(enabled=False))  # a model is loaded for each trial

    from compilekit.studies.bisect.search import Bisect

    return Bisect(
        ready_.plan, lambda plan: quiet.job(make, inputs, plan=plan), check, ready_.progress
    ).run()


def explain(
    recipe: Recipe | str | Path,
    pipeline: Any = None,
    *,
    inputs: Mapping[str, torch.Tensor] | None = None,
    leave_out: bool = False,
    host: Host | None = None,
    progress: bool = True,
    strict: bool = False,
) -> Explanation:
    """Run a recipe, and explain what each step did: which gained, which did nothing, and why.

    recipe, pipeline, inputs, progress, strict: as for `apply`. A broken budget is shown and does
        not stop the run.
    leave_out: for each step that a later step compiles, run the recipe again without it. That is
        the only way to know its gain. The model is loaded again each time, so `pipeline` must not
        be an object.

    Times are measured in turn with a copy of the model as loaded. Both must fit in memory.

    >>> import compilekit as ck
    >>> import torch
    >>> net = torch.nn.Linear(8, 8)
    >>> recipe = ck.Recipe.from_steps("precision{dtype=bfloat16, budget=1e-9}")
    >>> found = ck.explain(recipe, net, inputs={"input": torch.ones(1, 8)}, progress=False)
    >>> "over its budget 1e-09" in found.steps[0].problems[0]
    True
    """
    if leave_out and not (pipeline is None or isinstance(pipeline, str | Path)):
        raise UsageError(
            "leave_out loads the model anew for each run: pass a folder or a hub id, "
            f"not a {type(pipeline).__name__}"
        )
    ready_ = ready(recipe, host=host, progress=progress, strict=strict)

    from compilekit.studies.explain.leave_out import explain as run

    return run(
        ready_.plan, lambda plan: ready_.job(pipeline, inputs, plan=plan), leave_out=leave_out
    )


def largest_batch(
    recipe: Recipe | str | Path,
    make: Callable[[], Any] | str | Path | None = None,
    *,
    memory: str | None = None,
    limit: int = 64,
    timeout: float | None = None,
    inputs: Mapping[str, torch.Tensor] | None = None,
    on_trial: Callable[[BatchTrial], None] | None = None,
    host: Host | None = None,
    progress: bool = True,
) -> Batches:
    """Find the largest batch that fits, and the one with the highest throughput.

    make: a folder or hub id; or a function that makes the model, from a module that can be
        imported. By default, the recipe's `model:`. Each trial runs in its own process, which
        applies the recipe and runs the sample in one batch. It may be killed.
    memory: the limit of a trial: "8 GB", or "90%" of the memory. By default, all of a GPU, or
        the machine's free memory.
    limit: the largest batch to try. timeout: the time limit of a trial, in seconds.
    inputs, host, progress: as for `apply`.
    on_trial: called after each trial.

    Raises `MachineError` if not even a batch of one fits. Any other error of a trial ends the
    search.

    >>> import compilekit as ck
    >>> ck.largest_batch("sd/cpu", limit=0)
    Traceback (most recent call last):
    compilekit.errors.UsageError: the largest batch to try is 0, and must be at least 1
    """
    ready_ = ready(recipe, host=host, progress=progress, runs_here=False)
    from compilekit.studies.batch.search import Largest

    source = str(make) if isinstance(make, Path) else make
    check_source(source)
    plugins = plugin_files(ready_.host)
    search = Largest(
        ready_.plan,
        JobElsewhere(ready_.plan.recipe, source, inputs, plugins),
        limit=limit,
        timeout=timeout,
        on_trial=on_trial,
        progress=ready_.progress,
    )
    return search.run(memory)


def bench(
    recipe: Recipe | str | Path,
    pipeline: Any = None,
    *,
    batches: Sequence[int] = (1,),
    runs: int = 5,
    against: Recipe | str | Path | None = None,
    max_slowdown: str | float | None = None,
    seconds: float = 60.0,
    inputs: Mapping[str, torch.Tensor] | None = None,
    host: Host | None = None,
    progress: bool = True,
) -> Bench:
    """Apply a recipe, and time its result beside the model as loaded, or beside another recipe.

    recipe, inputs, host, progress: as for `apply`. Budgets are checked first.
    pipeline: a folder or hub id; or a function that makes the model, from a module that can be
        imported. By default, the recipe's `model:`. Each of the two is loaded in a process of its
        own, and both must fit in memory. An object is timed in this process, alone.
    batches: numbers of prompts, or of rows of a plain module's inputs. Steps that warm up for
        the recipe's `shapes:` warm up for these too.
    runs: how many pairs of runs of each batch are timed at least, after a first one that is
        shown separately.
    against: another recipe; where it has no model or no sample, those of the first are used. By
        default, the model as loaded, with the steps that mean to change its results.
    max_slowdown: how much longer the recipe may take: "5%" or 0.05.
    seconds: for how long to go on with a batch while it is not clear which is faster.

    Raises `VerificationError` if the recipe is slower than `max_slowdown` allows for sure; its
    `report` is the `Bench`.

    >>> import compilekit as ck
    >>> ck.bench("sd/cpu", batches=[0])
    Traceback (most recent call last):
    compilekit.errors.UsageError: batches and runs must be whole numbers, 1 at the least
    """
    counts = [*batches, runs] if isinstance(batches, Sequence) and batches else [0]
    if any(type(count) is not int or count < 1 for count in counts):
        raise UsageError("batches and runs must be whole numbers, 1 at the least")
    if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise UsageError(f"seconds is {seconds!r}, and must be a number, 0 at the least")
    limit = share_of(max_slowdown)
    source = str(pipeline) if isinstance(pipeline, Path) else pipeline
    try:
        check_source(source)
        stays = ""
    except UsageError as error:
        kind = "a function of this script" if is_function(source) else type(source).__name__
        stays = (
            f"not compared with anything, since another process cannot load {kind}: pass a "
            "folder, a hub id, or a function from a module"
        )
        if against is not None or limit is not None:
            raise UsageError(
                f"against= and max_slowdown= compare two processes: {error}"
            ) from error
    ready_ = ready(recipe, host=host, progress=progress, runs_here=bool(stays))
    other = against if against is None else plan(against, host=ready_.host).recipe
    with ready_.progress.stage("importing torch", brief=True):
        from compilekit.studies.bench.beside import Effort, compare
        from compilekit.studies.bench.run import adopted, alone, as_loaded, different_samples

    effort = Effort(runs, seconds, limit)
    if stays:
        return alone(ready_.job(source, inputs), batches, effort, stays)
    mine, plugins = ready_.plan.recipe, plugin_files(ready_.host)

    def order(name: str, recipe: Recipe) -> Order:
        return Order(name, JobElsewhere(recipe, source, inputs, plugins), batches)

    one, notes = order(mine.name, mine), []
    if other is None:
        rival = order(AS_LOADED, as_loaded(ready_.plan))
    else:
        other = adopted(other, mine)
        notes = different_samples(mine, other)
        rival = order(f"{other.name} (against)" if other.name == mine.name else other.name, other)
    needed = against is not None or limit is not None
    result = compare(one, rival, effort, ready_.progress, notes, needed=needed)
    if limit is not None and (slow := too_slow(result, limit)):
        problem = VerificationError("; ".join(slow))
        problem.report = result
        raise problem
    return result


def preflight(
    recipe: Recipe | str | Path,
    pipeline: Any = None,
    *,
    level: str = "",
    force: bool = False,
    host: Host | None = None,
    progress: bool = True,
) -> list[str]:
    """Run the checks of a step that exports the whole pipeline, without compiling.

    level: the check to run. By default, all checks, the quickest first.
    recipe, pipeline, force, host, progress: as for `build`.

    Returns the notes of the checks. Raises an error if a check fails.

    >>> import compilekit as ck
    >>> ck.preflight(ck.Recipe.from_steps("precision{dtype=bfloat16}"), progress=False)
    Traceback (most recent call last):
    compilekit.errors.UsageError: no step of this recipe has checks of its own
    """
    ready_ = ready(recipe, host=host, for_="build", progress=progress)
    step = ready_.plan.whole
    whole = None if step is None else step.description.whole
    if whole is None or not whole.preflight:
        raise UsageError("no step of this recipe has checks of its own")
    if level and level not in whole.preflight:
        raise UsageError(f'level="{level}": name one of {", ".join(whole.preflight)}')
    job = ready_.job(pipeline)
    from compilekit.build.job import BuildJob
    from compilekit.build.whole import check_whole

    order = BuildJob(job, Path(), None, force=force)
    levels = (level,) if level else whole.preflight
    return [note for check in levels for note in check_whole(order, check)]
