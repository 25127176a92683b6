"""Leaving steps out: whether the finished model is faster with a step than without it.

The gain of a step that a later one compiles can be told only so. Both models are timed in turn
with a copy of the model as loaded, so they need not be in memory at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from compilekit.base.progress import Progress
from compilekit.engine.job import Job
from compilekit.engine.pace import Pace
from compilekit.errors import PluginError, StepError
from compilekit.plan.order import violations
from compilekit.plan.plan import Plan
from compilekit.studies.explain.explanation import Explanation
from compilekit.studies.explain.judge import Judge, timing, verdict
from compilekit.studies.explain.run import Explain


def explain(plan: Plan, job_of: Callable[[Plan], Job], *, leave_out: bool) -> Explanation:
    """Run a plan, and say what its steps did; then run it again without some of them.

    job_of: makes the job of a plan, with a fresh model each time.
    """
    job = job_of(plan)
    progress = job.progress
    run = Explain(job)
    run.run()
    judge = Judge(run)
    explanation, paces, weights = judge.explanation(), judge.paces, judge.weights
    del run, judge, job
    for step in explanation.steps if leave_out else []:
        later = [t.entry for t in step.timings if t.later]
        rest = tuple(other for other in plan.steps if other.key != step.key)
        if not later or violations(rest):
            continue
        job = replace(job_of(replace(plan, steps=rest)), progress=Progress(enabled=False))
        with progress.stage(f"the recipe without {step.key}"):
            without = _paces(Explain(job))
        del job
        timings = {
            name: timing(name, paces[name].against(without[name]), left_out=True)
            for name in later
            if name in without
        }
        step.timings = [timings.get(t.entry, t) for t in step.timings]
        step.verdict = verdict(step, weights)
    return explanation


def _paces(run: Explain) -> dict[str, Pace]:
    torch.compiler.reset()  # equal code is compiled a limited number of times
    try:
        return run.final_paces()
    except (StepError, PluginError):
        return {}  # it does not run without that step, so nothing can be told
