"""One trial, in a process of its own: apply or build a recipe, and measure. Loads torch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from compilekit.base.component import ComponentFacts
from compilekit.base.texts import summary
from compilekit.engine.job import Job
from compilekit.engine.recording import record, timed_call
from compilekit.errors import (
    CompilekitError,
    ModelError,
    NoMatchError,
    StepError,
    VerificationError,
)
from compilekit.measure.memory import peak_bytes
from compilekit.measure.times import several
from compilekit.report import Report
from compilekit.studies.batch.limits import hold, is_memory
from compilekit.studies.tune.data import Facts, State, Trial
from compilekit.studies.tune.order import Order
from compilekit.subject.model import Model, float_dtype

SAMPLE = {"prompt": "a red apple on a wooden table", "num_inference_steps": 8}
"""What is drawn where no recipe says it, as far as the pipeline takes such arguments."""

SECONDS, MOST = 0.5, 5
"""For how long, and how often, a call of the model as loaded is timed."""


def answer(order: Order, say: Callable[[str], None]) -> dict[str, Any]:
    """The facts of a model, or a trial of a recipe, as plain data."""
    start = time.perf_counter()
    try:
        if order.wants_facts:
            return {"facts": facts_of(_job(order, say), start).model_dump(mode="json")}
        report = order.report(lambda plan: hold(plan.device, *order.limits), say)
    except (Exception, SystemExit) as error:
        if order.wants_facts:
            if isinstance(error, CompilekitError):
                raise
            raise ModelError(f"the model does not run: {summary(error)}") from error
        found = _failed(error)
    else:
        found = _measured(report)
    done = {"seconds": time.perf_counter() - start, "peak": peak_bytes()}
    return {"trial": found.model_copy(update=done).model_dump(mode="json")}


def facts_of(job: Job, start: float) -> Facts:
    """What plugins may know of the model, and the time of each call that its sample makes."""
    model, sample = job.model, dict(job.sample)
    extra = {} if sample or not model.is_pipeline else _default_sample(model)
    entries = [entry for name in model.modules for entry in model.entry_points(name)]
    recording, _ = record(
        entries,
        lambda: model.run({**sample, **extra}, job.plan.recipe.seed),
        small_stay=model.is_pipeline,
    )
    calls = {name: count for name, count in recording.counts.items() if count}
    seconds = {name: _seconds(model, name, recording.calls[name]) for name in calls}
    components = [
        _component(name, module, own)
        for name, module in model.modules.items()
        if (own := {n: c for n, c in calls.items() if n.split(".")[0] == name})
    ]
    return Facts(
        components=tuple(components),
        calls=calls,
        seconds=seconds,
        sample=extra,
        is_pipeline=model.is_pipeline,
        took=time.perf_counter() - start,
    )


def _job(order: Order, say: Callable[[str], None]) -> Job:
    say("loading the model")
    return order.job(lambda plan: hold(plan.device, *order.limits))


def _default_sample(model: Model) -> dict[str, object]:
    return {name: value for name, value in SAMPLE.items() if name in model.parameters}


def _seconds(model: Model, name: str, calls: list[Any]) -> float:
    entry, call = model.entry_point(name), calls[len(calls) // 2]
    return min(
        several(lambda: timed_call(entry, call, model.wait)[0], least=1, most=MOST, seconds=SECONDS)
    )


def _component(name: str, module: nn.Module, calls: Mapping[str, int]) -> ComponentFacts:
    linears = [m for m in module.modules() if isinstance(m, nn.Linear)]
    lists = [m for m in module.modules() if isinstance(m, nn.ModuleList)]
    blocks = Counter(type(b) for part in lists for b in part if any(True for _ in b.children()))
    return ComponentFacts(
        name=name,
        kind=type(module).__name__,
        dtype=str(float_dtype(module)).removeprefix("torch."),
        parameters=sum(p.numel() for p in module.parameters()),
        layers=dict(Counter(type(m).__name__ for m in module.modules())),
        linears=tuple((m.in_features, m.out_features) for m in linears),
        repeated=max(blocks.values(), default=0),
        calls=dict(calls),
    )


def _measured(report: Report) -> Trial:
    if report.verdict is None:
        why = next((w for w in report.warnings if "speed was not" in w), "it was not timed")
        return Trial(steps="", state="failed", why=why)
    return Trial(
        steps="",
        speeds=tuple(report.verdict.entries),
        errors={m.entry: m.error for m in report.final},
        psnr=None if report.end_to_end is None else report.end_to_end.psnr,
        ssim=None if report.end_to_end is None else report.end_to_end.ssim,
        compiling=_compiling(report),
    )


def _compiling(report: Report) -> float:
    told = [row.details.get("compile_seconds") for row in report.steps]
    return float(sum(seconds for seconds in told if isinstance(seconds, int | float)))


def _failed(error: BaseException) -> Trial:
    """What became of a trial that ended in an error."""
    if why := is_memory(error):
        return Trial(steps="", state="out of memory", why=why)
    report = getattr(error, "report", None)
    state: State = "failed"
    if isinstance(error, NoMatchError):
        state = "does not fit"
    elif isinstance(error, VerificationError):
        state = "over budget"
    elif isinstance(error, ModelError) and not isinstance(error, StepError):
        state = "does not fit"
    text = str(error) if isinstance(error, CompilekitError) else f"{type(error).__name__}: {error}"
    found = Trial(steps="", state=state, why=text, step=getattr(error, "step", None))
    if not isinstance(report, Report):
        return found
    rows = report.final or [m for row in report.steps for m in row.measurements]
    speeds = () if report.verdict is None else tuple(report.verdict.entries)
    return found.model_copy(update={"errors": {m.entry: m.error for m in rows}, "speeds": speeds})
