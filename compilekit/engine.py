"""The engine: runs a plan on a model, under instruments, and reports what happened."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from compilekit import environment
from compilekit.errors import (
    CompilekitError,
    ModelError,
    NoMatchError,
    StepError,
    VerificationError,
)
from compilekit.host import Host
from compilekit.instruments import (
    CheckClaims,
    Instrument,
    KeepState,
    Memory,
    Verify,
    model_bytes,
)
from compilekit.measure.images import psnr, ssim
from compilekit.model import EntryPoint, Model, cuda_devices, synchronize
from compilekit.order import overlap
from compilekit.plan import Plan
from compilekit.progress import Progress
from compilekit.recording import Call, Recording, on_cpu, record, run_call
from compilekit.reference import Outputs
from compilekit.report import EndToEnd, Report, StepReport
from compilekit.sample import images_of
from compilekit.saving import guard_saving
from compilekit.sizes import BATCH, check_shapes, one_step, resized_inputs, sized
from compilekit.steps import ALL_COMPONENTS, Device, PlannedStep, Purpose, StepResult


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: the report, and the sample's output before and after."""

    report: Report
    before: Any
    after: Any


@dataclass(frozen=True)
class Context:
    """What a running step may ask for: `compilekit.steps.StepContext`, implemented."""

    step: PlannedStep
    components: tuple[str, ...]
    device: Device
    purpose: Purpose
    _run: Run

    @property
    def remembered(self) -> Mapping[str, Any]:
        """Only a loaded bundle remembers something."""
        return {}

    def replay(self, component: str, *, exact: bool = False) -> int:
        """Run the recorded calls of a component or entry point, in the order of the sample."""
        return self._run.replay(component, exact=exact)

    @property
    def calls(self) -> tuple[Mapping[str, Any], ...]:
        """The sample in one step, in every size that the recipe names."""
        return self._run.calls()

    def run(self, call: Mapping[str, Any]) -> None:
        """Run the sample with the arguments of one of the calls."""
        self._run.run_call(call)

    def progress(self, message: str) -> None:
        """Show what the step is doing now."""
        self._run.progress.say(self._run.title(self.step), message)


class Run:
    """One run of a plan on a model."""

    def __init__(
        self, plan: Plan, model: Model, host: Host, sample: Mapping[str, Any], progress: Progress
    ) -> None:
        self.plan = plan
        self.model = model
        self.host = host
        self.sample = sample
        self.progress = progress
        self._recording = Recording()
        self._late: list[tuple[StepReport, StepResult]] = []
        self._unfit: dict[str, str] = {}
        self._begun: list[PlannedStep] = []
        self._running: PlannedStep | None = None
        self._verify: Verify | None = None
        self.report = Report(
            recipe=plan.recipe.name,
            digest=plan.digest,
            device=plan.device,
            reference=plan.recipe.verify.reference,
            environment=environment.describe(plan.device),
            parameter_bytes=model_bytes(model),
        )

    def execute(self) -> Outcome:
        """Run the plan; an error carries the report of what was done before it."""
        try:
            # Whoever calls goes on with the random numbers that they would have had.
            with torch.random.fork_rng(devices=cuda_devices()):
                return self._execute()
        except BaseException as error:
            # The half changed pipeline must not be saved as if it were a whole one.
            guard_saving(self.model, self._begun, self._unfit)
            if isinstance(error, CompilekitError):
                error.report = self.report
                error.step = None if self._running is None else self._running.index
            raise

    def execute_alone(self, step: PlannedStep) -> None:
        """Run one step under instruments; those before it run unmeasured, and none after it."""
        with torch.random.fork_rng(devices=cuda_devices()):
            first, rest = self._in_order()
            around = self._around()
            for each in first:
                self._step(each, around if each is step else [KeepState()])
                if each is step:
                    return
            self._record()
            verify = self._references(rest)
            for each in rest[: rest.index(step)]:
                # What is compiled ahead of time serves components that no later step may change.
                if self.plan.purpose != "build" or not each.description.exports:
                    self._step(each, [KeepState()])
            verify.final()  # the state that the step finds
            self._step(step, [*around, verify])

    def _in_order(self) -> tuple[list[PlannedStep], list[PlannedStep]]:
        """The steps that change results, and the others."""
        first = [step for step in self.plan.steps if "results" in step.effects.changes]
        return first, [step for step in self.plan.steps if step not in first]

    def _around(self) -> list[Instrument]:
        return [KeepState(), CheckClaims(self.model, self._titles()), Memory(self.model)]

    def _titles(self) -> dict[str, str]:
        return {name: str(plugin) for name, plugin in self.host.plugins.items()}

    def _references(self, steps: Sequence[PlannedStep]) -> Verify:
        with self.progress.stage("float32 reference, and times before the first step"):
            upcast = self.plan.recipe.verify.reference == "float32"
            verify = Verify(self.model, self._recording, steps, self._titles(), upcast=upcast)
        self._verify = verify
        self.report.baseline = verify.baseline
        return verify

    def _execute(self) -> Outcome:
        first, rest = self._in_order()
        around = self._around()
        for step in first:
            self._step(step, around)
        before, seconds_before = self._record()
        verify = self._references(rest)
        for step in rest:
            self._step(step, [*around, verify])
        after, seconds_after = self._rerun()
        with self.progress.stage("final check"):
            self.report.final = verify.final()
        self.report.end_to_end = end_to_end(before, after, seconds_before, seconds_after)
        self.report.not_savable = guard_saving(self.model, self._begun, self._unfit)
        self.gate()
        return Outcome(self.report, before, after)

    def title(self, step: PlannedStep) -> str:
        """How progress names a step."""
        where = ", ".join(step.components).replace(ALL_COMPONENTS, "the pipeline")
        return f"[{step.index + 1}/{len(self.plan.steps)}] {step.name}: {where}"

    def replay(self, component: str, *, exact: bool = False) -> int:
        """Run the recorded calls of a component or entry point, in the order of the sample."""
        named = [
            call
            for name, calls in self._recording.calls.items()
            if (name == component if exact else overlap(component, name))
            for call in calls
        ]
        for call in sorted(named, key=lambda call: call.index):
            run_call(self.model.entry_point(call.entry), call)
        return len(named)

    def recorded_with_references(self) -> dict[str, list[tuple[Call, Outputs]]]:
        """Every recorded call, with what the reference answered."""
        references = self._verify.references if self._verify else {}
        return {
            name: list(zip(calls, references[name], strict=True))
            for name, calls in self._recording.calls.items()
        }

    def _record(self) -> tuple[Any, float]:
        with self.progress.stage("recording the sample"):
            # The recorded run pays for lazy set-up and for the recorder, so the next is timed.
            self._recording, output = record(
                self._to_record(), self._run_sample, small_stay=self.model.is_pipeline
            )
            output = on_cpu(output)
            seconds = self._timed_sample()[1]
        for name, module in self.model.modules.items():
            if module.training:
                self.report.warnings.append(
                    f"{name} is in training mode, where dropout and the like make noise; "
                    "call eval() on it"
                )
        for name, count in self._recording.dropped.items():
            self.report.warnings.append(
                f"{name} is called in more ways than are kept: {count} calls were not recorded"
            )
        return output, seconds

    def _run_sample(self) -> Any:
        return self.run_sample(self.sample)

    def run_sample(self, sample: Mapping[str, Any]) -> Any:
        """Run the sample, or one like it; what it raises is explained."""
        try:
            return self.model.run(sample, self.plan.recipe.seed)
        except CompilekitError:
            raise
        except (Exception, SystemExit) as error:
            what = f"{type(error).__name__}: {error}"
            if self._running is not None:
                key = self._running.key
                raise StepError(f"{key}: in its warm-up the sample does not run: {what}") from error
            if self.report.steps:
                raise StepError(f"after the steps the sample no longer runs: {what}") from error
            raise ModelError(f"the sample does not run on the model as loaded: {what}") from error

    def calls(self) -> tuple[dict[str, Any], ...]:
        """The sample in one step, in every size; of a plain module there are only batches."""
        check_shapes(self.plan, self.model)
        shapes = ({}, *self.plan.recipe.shapes)
        if not self.model.is_pipeline:
            return tuple(dict(changes) for changes in shapes)
        return tuple(one_step(sized(self.sample, changes)) for changes in shapes)

    def run_call(self, call: Mapping[str, Any]) -> Any:
        """Run one of those calls."""
        if self.model.is_pipeline or BATCH not in call:
            return self.run_sample(call)
        with resized_inputs(self.model, int(call[BATCH])):
            return self.run_sample({})

    def _timed_sample(self) -> tuple[Any, float]:
        synchronize()
        start = time.perf_counter()
        output = self._run_sample()
        synchronize()
        return output, time.perf_counter() - start

    def _to_record(self) -> list[EntryPoint]:
        """The entry points of everything that a step names, and the denoisers."""
        named = [name for step in self.plan.steps for name in self._components(step)]
        entries = {
            entry.name: entry
            for name in [*named, *self.model.denoisers]
            for entry in self.model.entry_points(name)
        }
        return list(entries.values())

    def _components(self, step: PlannedStep) -> tuple[str, ...]:
        return tuple(self.model.modules) if ALL_COMPONENTS in step.components else step.components

    def _step(self, step: PlannedStep, instruments: Sequence[Instrument]) -> None:
        row = StepReport(
            index=step.index,
            name=step.name,
            components=list(self._components(step)),
            changes=sorted(step.effects.changes),
            budget=step.budget,
        )
        context = Context(
            step, self._components(step), self.plan.device, self.plan.purpose, _run=self
        )
        self._running = step
        with self.progress.stage(self.title(step)):
            for instrument in instruments:
                instrument.before(step)
            self._begun.append(step)
            start = time.perf_counter()
            try:
                result = self._perform(step, context)
            except BaseException:
                for instrument in reversed(instruments):
                    instrument.failed()
                raise
            synchronize()
            row.seconds = time.perf_counter() - start
            _note(row, result)
            self.report.steps.append(row)
            self._late.append((row, result))
            self._unfit |= {name: f"{step.key} {why}" for name, why in result.not_savable.items()}
            for instrument in instruments:
                instrument.after(step, result, row)
            _check_match(step, row)
        self._running = None

    def _perform(self, step: PlannedStep, context: Context) -> StepResult:
        """Let the step do its work. A build does something else with steps that export."""
        return self.host.optimize_model(step, self.model, context)

    def _rerun(self) -> tuple[Any, float]:
        with self.progress.stage("running the sample again"):
            self._run_sample()
            output, seconds = self._timed_sample()
            # Replaying compiled code later may write into the buffers of this output.
            output = on_cpu(output)
        for row, result in self._late:
            row.details.update(self.host.late_details(row.name, result))
        return output, seconds

    def gate(self) -> None:
        """The recipe's own budgets, for the state that the user gets."""
        verify = self.plan.recipe.verify
        problems = [
            f"{m.entry}: relative error {m.error:.2g} is over max_relative_error "
            f"{verify.max_relative_error:.2g}"
            for m in self.report.final
            if verify.max_relative_error is not None and m.error > verify.max_relative_error
        ]
        end = self.report.end_to_end
        for name, floor in (("psnr", verify.min_psnr), ("ssim", verify.min_ssim)):
            if floor is None:
                continue
            value = None if end is None else getattr(end, name)
            if value is None:
                problems.append(f"min_{name} is set, and the sample gives no images to compare")
            elif not value >= floor:
                problems.append(
                    f"{name} of the images is {value:.4g}, under min_{name} {floor:.4g}"
                )
        if problems:
            raise VerificationError("the finished model is out of budget: " + "; ".join(problems))


def _note(row: StepReport, result: StepResult) -> None:
    row.matched = {name: list(found) for name, found in result.matched.items()}
    row.changed = {name: list(found) for name, found in result.changed.items()}
    row.skipped = dict(result.skipped)
    row.details = dict(result.details)


def _check_match(step: PlannedStep, row: StepReport) -> None:
    if any(row.matched.values()) or step.allow_no_match:
        return
    left = "; ".join(f"{name}: {reason}" for name, reason in list(row.skipped.items())[:5])
    why = f" Left alone: {left}." if left else ""
    raise NoMatchError(
        f"{step.key} matched nothing in {', '.join(row.components)}.{why} "
        "If that is meant, say `allow_no_match: true`"
    )


def end_to_end(before: Any, after: Any, seconds_before: float, seconds_after: float) -> EndToEnd:
    """Compare the images of the sample before and after."""
    result = EndToEnd(seconds_before=seconds_before, seconds_after=seconds_after)
    old, new = images_of(before), images_of(after)
    if old is not None and new is not None and old.shape == new.shape:
        result.psnr, result.ssim = psnr(old, new), ssim(old, new)
    return result
