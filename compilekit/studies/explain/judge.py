"""From what was measured around each step to what the step came to."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import torch

from compilekit.engine.gate import ROUNDING, over_budget
from compilekit.engine.pace import Pace
from compilekit.plan.order import gives, overlap
from compilekit.plugin.steps import PlannedStep
from compilekit.report import Measurement, StepReport
from compilekit.studies.explain.data import (
    Called,
    ExplainedStep,
    Moved,
    Skipped,
    Timing,
    Verdict,
    Working,
)
from compilekit.studies.explain.explanation import Explanation
from compilekit.studies.explain.run import RECOMPILES, Explain, Seen, listed

BREAKS = "graph_breaks"
"""The key of a step's details that lists where a graph broke, and why."""

EPSILONS = 16
"""How many units of rounding two ways to compute the same may differ by."""


class Judge:
    """Goes through a run step by step, with what is known of the model before each.

    paces: of each entry point in the state that was reached; at the end, of the finished model.
    weights: how long the sample is in each entry point.
    """

    def __init__(self, run: Explain) -> None:
        self._run = run
        self._steps = [seen.step for seen in run.seen]
        self._noise = {m.entry: m.change for m in run.report.final}
        self._errors = {m.entry: m.error for m in run.report.baseline}
        self._bytes = run.report.parameter_bytes
        self._working = dict(run.loaded.working)
        self._epsilons = dict(run.loaded.epsilons)
        self.weights = {name: used.seconds for name, used in run.used.items()}
        self.paces = dict(run.loaded.paces)
        # The last pace that meant something, and the steps since then.
        self._settled = dict(run.loaded.paces)
        self._open: dict[str, list[str]] = defaultdict(list)

    def explanation(self) -> Explanation:
        """What the run says."""
        run = self._run
        return Explanation(
            recipe=run.plan.recipe.name,
            device=run.plan.device,
            compiles=any(map(_compiles, run.plan.steps)),
            steps=[self._step(seen) for seen in run.seen],
            calls=list(self._calls()),
            shapes=run.shapes,
            problems=run.problems,
            untimed=run.untimed,
            report=run.report,
        )

    def _step(self, seen: Seen) -> ExplainedStep:
        row, step, details = seen.row, seen.step, seen.row.details
        row.budget = step.budget
        explained = ExplainedStep(
            key=step.key,
            verdict="untold",
            changes=row.changes,
            matched=sum(map(len, row.matched.values())),
            changed=sum(map(len, row.changed.values())),
            bytes_before=self._bytes,
            bytes_after=row.parameter_bytes,
            budget=step.budget,
            moved=[self._moved(m, step) for m in row.measurements],
            timings=list(self._timings(seen)),
            working=list(self._taken(seen)),
            graph_breaks=listed(details, BREAKS),
            recompiles=seen.recompiles,
            skipped=grouped(row.skipped),
            uncalled=[] if seen.same is not None else _uncalled(step, row),
            details={k: v for k, v in details.items() if k not in (BREAKS, RECOMPILES)},
        )
        explained.verdict = verdict(
            explained, self.weights, same=seen.same, compiles=_compiles(step)
        )
        explained.problems = list(_problems(explained, step))
        self._bytes = row.parameter_bytes
        return explained

    def _moved(self, measured: Measurement, step: PlannedStep) -> Moved:
        entry, before = measured.entry, self._errors[measured.entry]
        self._errors[entry] = measured.error
        single = torch.finfo(torch.float32).eps
        # Rounding in another way moves outputs by about as much as they are off already.
        rounding = min(
            EPSILONS * self._epsilons.get(entry, single),
            max(EPSILONS * single, ROUNDING * before),
        )
        return Moved(
            entry=entry,
            change=measured.change,
            error=measured.error,
            rounding=measured.change <= max(rounding, self._noise.get(entry, 0.0)),
            over_budget=over_budget(step.budget, measured, before),
        )

    def _timings(self, seen: Seen) -> Iterator[Timing]:
        for entry in (m.entry for m in seen.row.measurements):
            pace = seen.state.paces.get(entry) if seen.state else None
            later = self._compiled_later(entry, seen.step)
            if pace is None or later:
                self._open[entry].append(seen.step.key)
                yield Timing(entry=entry, later=later)
            else:
                before, together = self._settled[entry], self._open.pop(entry, [])
                if pace.against(self.paces[entry]).verdict == "slower":
                    # By this step alone, whatever was gained before it.
                    before, together = self.paces[entry], []
                yield timing(entry, pace.against(before), together)
                self._settled[entry] = pace
            self.paces |= {entry: pace} if pace else {}

    def _compiled_later(self, entry: str, step: PlannedStep) -> str:
        after = self._steps[self._steps.index(step) + 1 :]
        return next((s.key for s in after if _compiles(s) and _works_on(s, entry)), "")

    def _taken(self, seen: Seen) -> Iterator[Working]:
        state = seen.state
        for entry, after in (state.working if state else {}).items():
            before = self._working.get(entry, after)
            yield Working(entry=entry, before=before, after=after)
            self._working[entry] = after
        self._epsilons |= state.epsilons if state else {}

    def _calls(self) -> Iterator[Called]:
        for entry, used in self._run.used.items():
            steps = [step for step in self._steps if _works_on(step, entry)]
            yield Called(
                entry=entry,
                calls=used.calls,
                ways=len(used.ways),
                share=used.seconds / self._run.seconds,
                steps=[step.key for step in steps],
                compiled=any(map(_compiles, steps)),
            )


def verdict(
    step: ExplainedStep,
    weights: Mapping[str, float],
    *,
    same: bool | None = None,
    compiles: bool = False,
) -> Verdict:
    """What a step came to.

    weights: how long the sample is in each entry point. same: whether the sample's output is the
    same, where the step means to change it.
    """
    if not step.matched:
        return "unmatched"
    if same is not None:
        return "dead" if same else "changed"
    verdicts = {t.verdict for t in step.timings}
    whole = overall(step.timings, weights)
    # Where the whole time tells nothing, its parts do, unless they contradict each other.
    parts = verdicts - {"noise", "untold"}
    for clear in ("slower", "faster"):
        if whole == clear or (whole in {"noise", "untold"} and parts == {clear}):
            return clear
    is_other = (
        step.bytes_before != step.bytes_after
        or not all(moved.rounding for moved in step.moved)
        or any(working.is_other for working in step.working)
    )
    if is_other or parts:
        return "changed"
    if not verdicts or "untold" in verdicts:
        return "untold"
    return "no gain" if compiles else "dead"


def overall(timings: Sequence[Timing], weights: Mapping[str, float]) -> str:
    """The verdict on all the time that a step works on, as far as it is told."""
    weighted = [(weights.get(t.entry, 0.0), t) for t in timings if t.ratio is not None]
    total = sum(weight for weight, _ in weighted)
    if not total:
        return "noise"

    def mean(name: str) -> float:
        return float(sum(weight * getattr(t, name) for weight, t in weighted) / total)

    return Pace(mean("ratio"), mean("low"), mean("high")).verdict


def timing(
    entry: str, pace: Pace, together: Sequence[str] = (), *, left_out: bool = False
) -> Timing:
    """A pace, as it is shown."""
    return Timing(
        entry=entry,
        verdict=pace.verdict,
        together=list(together),
        left_out=left_out,
        ratio=pace.ratio,
        low=pace.low,
        high=pace.high,
    )


def grouped(skipped: Mapping[str, str]) -> list[Skipped]:
    """What was left alone, by reason; reasons that differ in numbers alone are one."""
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for name, reason in skipped.items():
        groups[NUMBER.sub("#", reason)][name] = reason
    ordered = sorted(groups.values(), key=len, reverse=True)
    return [Skipped(reason=_merged([*group.values()]), names=[*group]) for group in ordered]


NUMBER = re.compile(r"\d+")


def _merged(reasons: Sequence[str]) -> str:
    """One reason for all: where their numbers differ, the least and the most of them."""
    columns = zip(*([int(n) for n in NUMBER.findall(reason)] for reason in reasons), strict=True)
    shown = iter(
        str(min(column)) if len(set(column)) == 1 else f"{min(column)} to {max(column)}"
        for column in columns
    )
    return NUMBER.sub(lambda _: next(shown), reasons[0])


def _problems(explained: ExplainedStep, step: PlannedStep) -> Iterator[str]:
    if not explained.matched and not step.allow_no_match:
        yield "it matched nothing, and the recipe does not say `allow_no_match: true`"
    for moved in explained.moved:
        if moved.over_budget:
            yield f"it moved {moved.entry} by {moved.change:.2g}, over its budget {step.budget:.2g}"


def _uncalled(step: PlannedStep, row: StepReport) -> list[str]:
    """The components that the step names, and the sample never calls."""
    called = [m.entry for m in row.measurements]
    return [name for name in step.components if not any(overlap(name, entry) for entry in called)]


def _compiles(step: PlannedStep) -> bool:
    return "compiled" in gives(step.effects)


def _works_on(step: PlannedStep, entry: str) -> bool:
    return any(overlap(component, entry) for component in step.components)
