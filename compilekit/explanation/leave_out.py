"""Leaving steps out: whether the finished model is faster with a step than without it.

A step that something compiles later shows only so what it is worth. Both models are timed in
turn with a copy of the one as loaded, so they need not be in memory at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from compilekit.errors import PluginError, StepError
from compilekit.explanation.data import ExplainedStep, Explanation
from compilekit.explanation.judge import Judge, timing, verdict
from compilekit.explanation.pace import Pace
from compilekit.explanation.run import Explain
from compilekit.host import Host
from compilekit.model import Model
from compilekit.order import violations
from compilekit.plan import Plan
from compilekit.progress import Progress

Prepare = Callable[[], tuple[Model, dict[str, Any], Progress]]
"""Gives the model on its device, the sample, and the progress to show."""


def explain(plan: Plan, host: Host, prepare: Prepare, *, leave_out: bool) -> Explanation:
    """Run a plan, and say what its steps did; then run it again without some of them."""
    model, sample, progress = prepare()
    run = Explain(plan, model, host, sample, progress)
    run.execute()
    judge = Judge(run)
    found, paces = judge.explanation(), judge.paces
    weights = judge.weights
    del run, judge, model
    for step in found.steps if leave_out else []:
        names = [each.entry for each in step.timings if each.later]
        rest = [each for each in plan.steps if each.key != step.key]
        if not names or violations(rest):
            continue
        less = replace(plan, steps=tuple(rest))
        model, sample, _ = prepare()
        with progress.stage(f"the recipe without {step.key}"):
            without = _paces(Explain(less, model, host, sample, Progress(enabled=False)))
        del model
        _tell(step, [name for name in names if name in without], paces, without, weights)
    return found


def _paces(run: Explain) -> dict[str, Pace]:
    torch.compiler.reset()  # equal code is compiled a limited number of times
    try:
        return run.final_paces()
    except (StepError, PluginError):
        return {}  # it does not run without that step, so nothing can be told


def _tell(
    step: ExplainedStep,
    names: Sequence[str],
    paces: Mapping[str, Pace],
    without: Mapping[str, Pace],
    weights: Mapping[str, float],
) -> None:
    told = {name: timing(name, paces[name].against(without[name]), left_out=True) for name in names}
    step.timings = [told.get(each.entry, each) for each in step.timings]
    step.verdict = verdict(step, weights)
