"""The run behind an explanation: `apply`, in which only a step that fails stops.

More is measured around each step; broken budgets, and steps that match nothing, are noted.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from compilekit.engine.gate import broken_budgets
from compilekit.engine.instruments import KeepState, Verify
from compilekit.engine.job import Job
from compilekit.engine.pace import Pace, Pacer
from compilekit.engine.recording import on_cpu, run_call
from compilekit.engine.reference import outputs_of
from compilekit.engine.run import Execution, end_to_end
from compilekit.engine.verdict import note_unsteady, speeds_of, verdict_of
from compilekit.errors import CompilekitError, NonFiniteError, StepError
from compilekit.measure.memory import working_bytes
from compilekit.plugin.steps import PlannedStep
from compilekit.report import Report, StepReport
from compilekit.studies.explain.calls import Usage, usage
from compilekit.studies.explain.data import Recompile, ShapeRun
from compilekit.subject.model import float_dtype
from compilekit.subject.sample import images_of
from compilekit.subject.sizes import check_shapes, sized

RECOMPILES = "recompiles"
"""The key of a step's details that lists what was compiled again since the step ran."""

TRIES = 3


@dataclass
class State:
    """The model after a step, or as loaded, by recorded entry point.

    working: the bytes that a call takes. epsilons: the unit of rounding of the weights' dtype.
    """

    paces: dict[str, Pace] = field(default_factory=dict)
    working: dict[str, int] = field(default_factory=dict)
    epsilons: dict[str, float] = field(default_factory=dict)


@dataclass
class Seen:
    """A step that ran: as the recipe has it, what it reported, and the model after it.

    same: of a step that changes results, whether the sample's output is the same as before.
    """

    step: PlannedStep
    row: StepReport
    state: State | None = None
    same: bool | None = None
    recompiles: list[Recompile] = field(default_factory=list)


class Explain:
    """One run of a plan in which broken budgets and steps that match nothing are only noted."""

    def __init__(self, job: Job) -> None:
        check_shapes(job.plan, job.model)
        self.plan = job.plan
        self.model = job.model
        self.seen: list[Seen] = []
        self.used: dict[str, Usage] = {}
        self.seconds = 0.0
        self.loaded = State()
        self.shapes: list[ShapeRun] = []
        self.problems: list[str] = []
        self.untimed = ""
        self._steps = {step.index: step for step in job.plan.steps}
        # Without what would stop it.
        steps = (replace(step, budget=math.inf, allow_no_match=True) for step in job.plan.steps)
        self._execution = Execution(replace(job, plan=replace(job.plan, steps=tuple(steps))))
        self._progress = job.progress

    @property
    def report(self) -> Report:
        """The numbers of the run."""
        return self._execution.report

    def final_paces(self) -> dict[str, Pace]:
        """The finished model's pace, with nothing else measured."""
        execution = self._execution
        with execution.guarded():
            first, rest = execution.in_order()
            for step in first:
                execution.perform(step, [KeepState()])
            execution.record()
            pacer = Pacer(self.model, execution.recording.calls)
            for step in rest:
                execution.perform(step, [KeepState()])
            return pacer.paces(execution.recording.calls)

    def run(self) -> None:
        """Run everything, and note what happens."""
        execution = self._execution
        with execution.guarded():
            first, rest = execution.in_order()
            self._change_results(first)
            before = execution.record_sample()
            with self._progress.stage("counting the calls of each entry point"):
                self.used, self.seconds = usage(self.model, self._sample)
            verify = execution.verify(rest)
            pacer = Pacer(self.model, execution.recording.calls, execution.working_bytes())
            self.loaded = self._look(pacer, list(execution.recording.calls))
            try:
                for step in rest:
                    execution.perform(step, [*execution.instruments(), verify])
                    self._see(pacer)
                after = execution.rerun()
                self.report.end_to_end = end_to_end(before, after)
                self._run_shapes()
                with self._progress.stage("final check"):
                    self.report.final = verify.final(again=True)
                self._judge(verify, pacer)
                if broken := broken_budgets(
                    self.plan.recipe.verify, self.report, self.plan.purpose
                ):
                    self.problems.append(
                        f"the finished model is out of budget: {'; '.join(broken)}"
                    )
            except NonFiniteError as error:
                if len(self.report.steps) > len(self.seen):
                    self._see()
                self._judge(verify, pacer)
                self.problems.append(f"{error}; later steps are not explained")
            self.untimed = pacer.why_not
            execution.guard_saving()

    def _judge(self, verify: Verify, pacer: Pacer) -> None:
        """Say in the report whether the model is faster after the last step that was timed."""
        if pacer.why_not:
            return
        paces = dict(self.loaded.paces)
        for seen in self.seen:
            paces |= seen.state.paces if seen.state else {}
        counts = self._execution.recording.counts
        note_unsteady(self.report, verify, {name: pacer.outputs(name) for name in counts})
        speeds = speeds_of(paces, counts, verify.compiled)
        self.report.verdict = verdict_of(speeds, self.report, self.plan, not_in_turn="")

    def _sample(self) -> Any:
        return self._execution.run_sample(self._execution.sample)

    def _change_results(self, steps: Sequence[PlannedStep]) -> None:
        """Run the steps that mean to change the image, and check whether it changes."""
        output = on_cpu(self._sample()) if steps else None
        for step in steps:
            self._execution.perform(step, self._execution.instruments())
            previous, output = output, on_cpu(self._sample())
            self._see()
            self.seen[-1].same = _same(previous, output)

    def _see(self, pacer: Pacer | None = None) -> None:
        """Note the step that ran last."""
        row = self.report.steps[-1]
        state = self._look(pacer, [m.entry for m in row.measurements]) if pacer else None
        self.seen.append(Seen(self._steps[row.index], row, state))

    def _look(self, pacer: Pacer, names: Sequence[str]) -> State:
        """Time some entry points, and measure the memory that a call takes."""
        state = State()
        with self._progress.stage("  times, in turn with the model as loaded"):
            state.paces = pacer.paces(names)
            for name in names:
                entry, calls = self.model.entry_point(name), self._execution.recording.calls[name]
                run = functools.partial(run_call, entry, calls[0])
                # The least of several: memory that is set up once and kept is not the call's.
                taken = [size for _ in range(TRIES) if (size := working_bytes(run)) is not None]
                if taken:
                    state.working[name] = min(taken)
                state.epsilons[name] = torch.finfo(float_dtype(entry.owner) or torch.float32).eps
        return state

    def _run_shapes(self) -> None:
        """Run the sample in every entry of `shapes`, and note what was compiled again."""
        known = [listed(seen.row.details, RECOMPILES) for seen in self.seen]
        for seen, names in zip(self.seen, known, strict=True):
            seen.recompiles = [Recompile(what=name, cause="the sample") for name in names]
        for changes in self.plan.recipe.shapes:
            shape = ", ".join(f"{key}={value}" for key, value in changes.items())
            ran = ShapeRun(shape=shape)
            with self._progress.stage(f"running the sample with {shape}"):
                try:
                    self._execution.run_sample(sized(self.model, self._execution.sample, changes))
                except StepError as error:
                    ran.error = str(error.__cause__ or error).partition("\n")[0]
            self.shapes.append(ran)
            for index, seen in enumerate(self.seen):
                now = listed(self._execution.late_details(seen.row), RECOMPILES)
                more = (Counter(now) - Counter(known[index])).elements()
                seen.recompiles += [Recompile(what=name, cause=shape) for name in more]
                known[index] = now


def listed(details: Mapping[str, Any], key: str) -> list[str]:
    """The texts under a key of a step's details; none if it holds something else."""
    values = details.get(key)
    return [str(value) for value in values] if isinstance(values, list | tuple) else []


def _same(previous: Any, output: Any) -> bool:
    """Whether two outputs of the sample are equal to the bit."""
    old, new = images_of(previous), images_of(output)
    if old is not None and new is not None:
        return np.array_equal(old, new)
    try:
        before, after = dict(outputs_of(previous)), dict(outputs_of(output))
    except CompilekitError:
        return False
    return before.keys() == after.keys() and all(
        torch.equal(tensor, after[name]) for name, tensor in before.items()
    )
