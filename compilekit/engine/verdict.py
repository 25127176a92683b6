"""The verdict of a run: whether the finished model is faster, and which step made it slower."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from compilekit.engine.instruments import NOISE, Verify
from compilekit.engine.pace import Pace, Pacer, one_after_the_other
from compilekit.engine.recording import Recording
from compilekit.engine.reference import Outputs
from compilekit.plan.plan import Plan
from compilekit.report import Report, Speed, StepReport, Verdict
from compilekit.report.verdict import MARGIN, kind
from compilekit.subject.model import Model

SHARE = 0.25
"""The share of the time of all that came before that may go into telling a small difference."""


class Speeds:
    """Times the sample's calls before the steps and after them, in turn where that is possible."""

    def __init__(self, model: Model, recording: Recording, working: int, thorough: int = 1) -> None:
        # Calls inside of other recorded ones are timed with those.
        self._counts = recording.counts
        calls = {name: recording.calls[name] for name in self._counts}
        self._pacer = Pacer(model, calls, working, thorough)
        self._before: dict[str, list[float]] = {}
        self._again: dict[str, Outputs] = {}
        for name in calls if self._pacer.why_not else ():
            self._before[name] = self._pacer.times(name)
            self._again[name] = self._pacer.now(name)

    def judge(self, report: Report, plan: Plan, verify: Verify) -> None:
        """Say in the report whether the finished model is faster."""
        budget = SHARE * sum(stage.seconds for stage in report.stages)
        speeds = self._entries(verify.compiled, budget / max(1, len(self._counts)))
        # Times that were taken in turn are better than those around each step.
        by_name = {speed.entry: speed for speed in speeds}
        for measured in report.baseline:
            if measured.entry in by_name:
                measured.seconds = by_name[measured.entry].seconds_as_loaded
        for measured in report.final:
            if measured.entry in by_name:
                measured.seconds = by_name[measured.entry].seconds
        report.verdict = verdict_of(speeds, report, plan, not_in_turn=self._pacer.why_not)
        if not speeds and self._pacer.why_not:
            report.warnings.append(f"speed was not measured: {self._pacer.why_not}")

    def note_unsteady(self, report: Report, verify: Verify) -> None:
        """Warn if the model as loaded gives other outputs for the same call."""
        again = {name: self._again.get(name) or self._pacer.outputs(name) for name in self._counts}
        note_unsteady(report, verify, again)

    def _entries(self, is_compiled: Mapping[str, bool], budget: float) -> list[Speed]:
        """How fast each entry point is by now."""
        paces = self._pacer.paces(self._counts, budget)
        if not paces and self._before:
            paces = {
                name: one_after_the_other(then, self._pacer.times(name))
                for name, then in self._before.items()
            }
        return speeds_of(paces, self._counts, is_compiled)


def speeds_of(
    paces: Mapping[str, Pace], counts: Mapping[str, int], is_compiled: Mapping[str, bool]
) -> list[Speed]:
    """The paces of entry points that the sample calls, for a report."""
    return [
        Speed(
            entry=name,
            calls=counts[name],
            seconds=pace.seconds,
            seconds_as_loaded=pace.seconds_as_loaded,
            speedup=1 / pace.ratio,
            low=1 / pace.high,
            high=1 / pace.low,
            compiled=is_compiled[name],
        )
        for name, pace in paces.items()
        if counts.get(name)
    ]


def note_unsteady(report: Report, verify: Verify, again: Mapping[str, Outputs | None]) -> None:
    """Warn if a call of the model as loaded, run again, gives other outputs than the first time."""
    for name, outputs in again.items():
        moved = 0.0 if outputs is None else verify.apart(name, outputs)
        if moved > NOISE:
            report.warnings.append(
                f"{name} gives other outputs for the same call: two runs as loaded are "
                f"{moved:.2g} apart (relative L2), and a step is blamed for that too"
            )


def verdict_of(
    speeds: Sequence[Speed], report: Report, plan: Plan, *, not_in_turn: str
) -> Verdict | None:
    """The verdict on all entry points together; None if none was timed.

    Each counts by the time that its calls took as loaded.
    """
    if not speeds:
        return None
    before = sum(s.calls * s.seconds_as_loaded for s in speeds)

    def together(speedup: Callable[[Speed], float]) -> float:
        return before / sum(s.calls * s.seconds_as_loaded / speedup(s) for s in speeds)

    speedup = together(lambda speed: speed.speedup)
    verdict = Verdict(
        speedup=speedup,
        low=together(lambda speed: speed.low),
        high=together(lambda speed: speed.high),
        seconds=before / speedup,
        seconds_as_loaded=before,
        entries=list(speeds),
        not_in_turn=not_in_turn,
    )
    step = _slowest_step(report, speeds) if kind(verdict) == "slower" else None
    if step is not None:
        verdict.blame, verdict.blamed = step.name, _gain(report, step, speeds)
        key = next(planned.key for planned in plan.steps if planned.index == step.index)
        said = (s.removeprefix(f"{key}: ") for s in plan.advice if s.startswith(f"{key}: "))
        verdict.because = next(said, "")
    return verdict


def _slowest_step(report: Report, speeds: Sequence[Speed]) -> StepReport | None:
    """The step that slowed the model down most, if one did."""
    steps = [step for step in report.steps if step.measurements]
    slowest = min(steps, key=lambda step: _gain(report, step, speeds), default=None)
    if slowest is None or _gain(report, slowest, speeds) > 1 / (1 + MARGIN):
        return None
    return slowest


def _gain(report: Report, step: StepReport, speeds: Sequence[Speed]) -> float:
    """How many times faster the sample's calls are after a step than before it."""
    calls = {speed.entry: speed.calls for speed in speeds}
    before = {m.entry: m.seconds for m in report.baseline}
    for earlier in report.steps[: report.steps.index(step)]:
        before |= {m.entry: m.seconds for m in earlier.measurements}
    after = before | {m.entry: m.seconds for m in step.measurements}
    totals = [sum(calls.get(e, 0) * t for e, t in times.items()) for times in (before, after)]
    return totals[0] / totals[1] if all(totals) else 1.0
