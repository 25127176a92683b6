"""The run behind an explanation: `apply`, in which only a step that fails stops.

More is measured around each step; broken budgets, and steps that match nothing, are noted.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from compilekit.engine import Outcome, Run, end_to_end
from compilekit.errors import CompilekitError, NonFiniteError, StepError, VerificationError
from compilekit.explanation.calls import Usage, usage
from compilekit.explanation.data import Recompile, ShapeRun
from compilekit.explanation.pace import Pace, Pacer
from compilekit.explanation.shapes import RECOMPILES, added, listed, run_shape
from compilekit.host import Host
from compilekit.instruments import KeepState
from compilekit.measure.memory import working_bytes
from compilekit.model import Model, cuda_devices, float_dtype
from compilekit.plan import Plan
from compilekit.progress import Progress
from compilekit.recording import on_cpu, record, run_call
from compilekit.reference import outputs_of
from compilekit.report import StepReport
from compilekit.sample import images_of
from compilekit.saving import guard_saving
from compilekit.sizes import check_shapes
from compilekit.steps import PlannedStep

THE_SAMPLE = "the sample"
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


class Explain(Run):
    """One run of a plan, in which broken budgets and steps that match nothing are only noted."""

    def __init__(
        self, plan: Plan, model: Model, host: Host, sample: Mapping[str, Any], progress: Progress
    ) -> None:
        check_shapes(plan, model)
        self._told = {step.index: step for step in plan.steps}
        super().__init__(_lenient(plan), model, host, sample, progress)
        self.seen: list[Seen] = []
        self.used: dict[str, Usage] = {}
        self.seconds = 0.0
        self.loaded = State()
        self.shapes: list[ShapeRun] = []
        self.problems: list[str] = []
        self.untimed = ""

    def final_paces(self) -> dict[str, Pace]:
        """The finished model's pace, with nothing else measured."""
        with torch.random.fork_rng(devices=cuda_devices()):
            first, rest = self._in_order()
            for step in first:
                self._step(step, [KeepState()])
            self._recording, _ = record(
                self._to_record(), self._run_sample, small_stay=self.model.is_pipeline
            )
            pacer = Pacer(self.model, self._recording.calls)
            for step in rest:
                self._step(step, [KeepState()])
            return pacer.paces(self._recording.calls)

    def _execute(self) -> Outcome:
        first, rest = self._in_order()
        around = self._around()
        self._change_results(first)
        before, seconds = self._record()
        with self.progress.stage("who calls what"):
            self.used, self.seconds = usage(self.model, self._run_sample)
        verify = self._references(rest)
        pacer = Pacer(self.model, self._recording.calls)
        self.loaded = self._look(pacer, list(self._recording.calls))
        after = None
        try:
            for step in rest:
                self._step(step, [*around, verify])
                self._see(self.report.steps[-1], pacer)
            after, seconds_after = self._rerun()
            self.report.end_to_end = end_to_end(before, after, seconds, seconds_after)
            self._run_shapes()
            with self.progress.stage("final check"):
                self.report.final = verify.final()
            self.gate()
        except NonFiniteError as error:
            if len(self.report.steps) > len(self.seen):
                self._see(self.report.steps[-1])
            self.problems.append(f"{error}; nothing after that is explained")
        self.untimed = pacer.why_not
        self.report.not_savable = guard_saving(self.model, self._begun, self._unfit)
        return Outcome(self.report, before, after)

    def gate(self) -> None:
        """Note it where the recipe's own budgets are broken."""
        try:
            super().gate()
        except VerificationError as error:
            self.problems.append(str(error))

    def _change_results(self, steps: Sequence[PlannedStep]) -> None:
        """Run the steps that mean to change the image, and look whether it is another."""
        output = on_cpu(self._run_sample()) if steps else None
        for step in steps:
            self._step(step, self._around())
            previous, output = output, on_cpu(self._run_sample())
            self._see(self.report.steps[-1])
            self.seen[-1].same = _same(previous, output)

    def _see(self, row: StepReport, pacer: Pacer | None = None) -> None:
        state = self._look(pacer, [m.entry for m in row.measurements]) if pacer else None
        self.seen.append(Seen(self._told[row.index], row, state))

    def _look(self, pacer: Pacer, names: Sequence[str]) -> State:
        """Time some entry points, and measure what a call takes."""
        found = State()
        with self.progress.stage("  times, in turn with the model as loaded"):
            found.paces = pacer.paces(names)
            for name in names:
                entry, calls = self.model.entry_point(name), self._recording.calls[name]
                run = functools.partial(run_call, entry, calls[0])
                # The least of several: what is set up once, and kept, is no need of the call's.
                taken = [each for _ in range(TRIES) if (each := working_bytes(run)) is not None]
                if taken:
                    found.working[name] = min(taken)
                found.epsilons[name] = torch.finfo(float_dtype(entry.owner) or torch.float32).eps
        return found

    def _run_shapes(self) -> None:
        """Run the sample in every entry of `shapes`, and note what was compiled again."""
        known = {seen.step.index: listed(seen.row.details, RECOMPILES) for seen in self.seen}
        for seen in self.seen:
            own = known[seen.step.index]
            seen.recompiles = [Recompile(what=what, cause=THE_SAMPLE) for what in own]
        for changes in self.plan.recipe.shapes:
            shape = ", ".join(f"{key}={value}" for key, value in changes.items())
            ran = ShapeRun(shape=shape)
            with self.progress.stage(f"running the sample with {shape}"):
                try:
                    run_shape(self, changes)
                except StepError as error:
                    ran.error = str(error.__cause__ or error).partition("\n")[0]
            self.shapes.append(ran)
            for row, result in self._late:
                now = listed(self.host.late_details(row.name, result), RECOMPILES)
                seen = next(each for each in self.seen if each.row is row)
                new = added(now, known[row.index])
                seen.recompiles += [Recompile(what=what, cause=shape) for what in new]
                known[row.index] = now


def _lenient(plan: Plan) -> Plan:
    """The plan without what would stop it."""
    steps = (replace(step, budget=math.inf, allow_no_match=True) for step in plan.steps)
    return replace(plan, steps=tuple(steps))


def _same(one: Any, other: Any) -> bool:
    """Whether two outputs of the sample are equal to the bit."""
    old, new = images_of(one), images_of(other)
    if old is not None and new is not None:
        return np.array_equal(old, new)
    try:
        before, after = dict(outputs_of(one)), dict(outputs_of(other))
    except CompilekitError:
        return False
    return before.keys() == after.keys() and all(
        torch.equal(tensor, after[name]) for name, tensor in before.items()
    )
