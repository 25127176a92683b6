"""The engine: runs a plan on a model under instruments, and reports what happened."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from compilekit.base import environment
from compilekit.base.texts import summary
from compilekit.base.words import ALL_COMPONENTS
from compilekit.engine.gate import broken_budgets
from compilekit.engine.instruments import (
    CheckClaims,
    Instrument,
    KeepState,
    Memory,
    Verify,
    model_bytes,
)
from compilekit.engine.job import Job
from compilekit.engine.recording import Call, Recording, on_cpu, record, run_call
from compilekit.engine.reference import Outputs
from compilekit.engine.saving import guard_saving
from compilekit.engine.verdict import Speeds
from compilekit.errors import (
    CompilekitError,
    ModelError,
    NoMatchError,
    StepError,
    VerificationError,
)
from compilekit.measure.images import psnr, ssim
from compilekit.measure.memory import held_bytes, peak_bytes, reset_peak
from compilekit.measure.times import timed
from compilekit.plan.order import overlap
from compilekit.plugin.contexts import StepContext
from compilekit.plugin.steps import PlannedStep, StepResult
from compilekit.report import EndToEnd, Report, Stage, StepReport
from compilekit.subject.model import EntryPoint, cuda_devices
from compilekit.subject.sample import images_of
from compilekit.subject.sizes import check_shapes, in_size, one_step, sized

Perform = Callable[["Execution", PlannedStep, StepContext], StepResult]
"""The strategy of a run: what is done when a step's turn comes."""


def optimize(run: Execution, step: PlannedStep, context: StepContext) -> StepResult:
    """The strategy of `apply`: the step changes the model in this process."""
    return run.host.optimize_model(step, run.model, context)


RECORDING = "recording the sample"

EXPORTED = (
    ". A module from torch.export takes its inputs the way it was exported, and compilekit passes "
    "them by name: export it with `kwargs=`, or pass the original module"
)


@dataclass(frozen=True)
class Outcome:
    """The result of a run: the report, and the sample's output before and after."""

    report: Report
    before: Any
    after: Any


class Execution:
    """One run of a job's plan. `run` does all of it; studies call the single parts.

    perform: what to do when a step's turn comes.
    arguments: adds arguments to each run of the sample: fresh generators, for example.
    """

    def __init__(
        self,
        job: Job,
        perform: Perform = optimize,
        arguments: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ) -> None:
        self.plan = job.plan
        self.model = job.model
        self.host = job.host
        self.sample = job.sample
        self.progress = job.progress
        self.recording = Recording()
        self.sample_runs = 0
        self.report = Report(
            recipe=job.plan.recipe.name,
            digest=job.plan.digest,
            device=job.plan.device,
            reference=job.plan.recipe.verify.reference,
            environment=environment.describe(job.plan.device),
            parameter_bytes=model_bytes(job.model),
            warnings=job.plan.warnings,
            advice=list(job.plan.advice),
            allowed=job.plan.recipe.verify.max_relative_error,
        )
        self._thorough = job.thorough
        self._perform = perform
        self._arguments = arguments
        self._results: list[tuple[StepReport, StepResult]] = []
        self._not_savable: dict[str, str] = {}
        self._begun: list[PlannedStep] = []
        self._running: PlannedStep | None = None
        self._verify: Verify | None = None

    def run(self) -> Outcome:
        """Run the whole plan; an error carries the report of what was done before it."""
        with self.guarded():
            first, rest = self.in_order()
            for step in first:
                self.perform(step, self.instruments())
            before = self.record_sample()
            verify = self.verify(rest)
            with self.stage("a copy of the model as loaded, for its times"):
                speeds = Speeds(self.model, self.recording, self.working_bytes(), self._thorough)
            try:
                for step in rest:
                    self.perform(step, [*self.instruments(), verify])
            except VerificationError as error:
                known = len(self.report.warnings)
                speeds.note_unsteady(self.report, verify)
                error.args = (". ".join([str(error), *self.report.warnings[known:]]),)
                raise
            after = self.rerun(verify.answer())
            with self.stage("final check"):
                self.report.final = verify.final()
            with self.stage("speed, in turn with the model as loaded"):
                speeds.judge(self.report, self.plan, verify)
                speeds.note_unsteady(self.report, verify)
            self.report.end_to_end = end_to_end(before, after)
            self.guard_saving()
            self.gate()
            return Outcome(self.report, before, after)

    def run_alone(self, step: PlannedStep) -> None:
        """Run one step under instruments. Steps before it run unmeasured; later ones do not run."""
        with self.guarded():
            first, rest = self.in_order()
            for earlier in first:
                self.perform(earlier, self.instruments() if earlier is step else [KeepState()])
                if earlier is step:
                    return
            self.record_sample()
            verify = self.verify(rest)
            for earlier in rest[: rest.index(step)]:
                # Exported components cannot be changed by a later step, so nothing depends on it.
                if self.plan.purpose != "build" or not earlier.description.exports:
                    self.perform(earlier, [KeepState()])
            verify.final(again=True)  # the state that the step finds
            self.perform(step, [*self.instruments(), verify])

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Keep the caller's random numbers; an error carries the report and the failing step."""
        try:
            with torch.random.fork_rng(devices=cuda_devices()):
                yield
        except BaseException as error:
            # A half-changed pipeline must not be saved as if it were finished.
            self.guard_saving()
            if isinstance(error, CompilekitError):
                error.report = self.report
                error.step = None if self._running is None else self._running.index
            raise

    def in_order(self) -> tuple[list[PlannedStep], list[PlannedStep]]:
        """The steps that change results, and the others."""
        first = [step for step in self.plan.steps if "results" in step.effects.changes]
        return first, [step for step in self.plan.steps if step not in first]

    def instruments(self) -> list[Instrument]:
        """The instruments around every step, but for `Verify`, which needs a recording."""
        return [KeepState(), CheckClaims(self.model, self._titles()), Memory(self.model)]

    def verify(self, steps: Sequence[PlannedStep]) -> Verify:
        """Compute the reference of the recorded calls, and measure the model before the steps."""
        with self.stage("float32 reference, and times before the first step"):
            upcast = self.plan.recipe.verify.reference == "float32"
            self._verify = Verify(self.model, self.recording, steps, self._titles(), upcast=upcast)
        self.report.baseline = self._verify.baseline
        return self._verify

    def perform(self, step: PlannedStep, instruments: Sequence[Instrument]) -> StepReport:
        """Run one step under instruments; returns its row of the report."""
        components = self.components(step)
        row = StepReport(
            index=step.index,
            name=step.name,
            components=list(components),
            changes=sorted(step.effects.changes),
            budget=step.budget,
        )
        title = self.title(step)
        context = StepContext(
            step=step,
            components=components,
            device=self.plan.device,
            purpose=self.plan.purpose,
            say=lambda message: self.progress.say(title, message),
            runner=self,
        )
        self._running = step
        with self.stage(title):
            for instrument in instruments:
                instrument.before(step)
            self._begun.append(step)
            try:
                row.seconds, result = timed(
                    lambda: self._perform(self, step, context), self.model.wait
                )
            except BaseException:
                for instrument in reversed(instruments):
                    instrument.failed()
                raise
            row.matched = {name: list(names) for name, names in result.matched.items()}
            row.changed = {name: list(names) for name, names in result.changed.items()}
            row.skipped, row.details = dict(result.skipped), dict(result.details)
            self.report.steps.append(row)
            self.report.advice += [f"{step.key}: {sentence}" for sentence in result.advice]
            self._results.append((row, result))
            self._not_savable |= {
                name: f"{step.key} {why}" for name, why in result.not_savable.items()
            }
            for instrument in instruments:
                instrument.after(step, result, row)
            _check_match(step, row)
        self._running = None
        return row

    def title(self, step: PlannedStep) -> str:
        """How progress names a step."""
        where = ", ".join(step.components).replace(ALL_COMPONENTS, "the pipeline")
        return f"[{step.index + 1}/{len(self.plan.steps)}] {step.name}: {where}"

    def components(self, step: PlannedStep) -> tuple[str, ...]:
        """The components that a step works on, `*` replaced by all of them."""
        return tuple(self.model.modules) if ALL_COMPONENTS in step.components else step.components

    def record(self, also: Sequence[PlannedStep] = ()) -> Any:
        """Run the sample, and record the entry points that the steps name; returns its output."""
        self.recording, output = record(
            self._recorded_entries([*self.plan.steps, *also]),
            lambda: self.run_sample(self.sample),
            small_stay=self.model.is_pipeline,
        )
        return output

    def record_sample(self) -> Any:
        """Run the sample and record it; returns its output."""
        with self.stage(RECORDING):
            output = on_cpu(self.record())
        for name, module in self.model.modules.items():
            if module.training:
                self.report.warnings.append(
                    f"{name} is in training mode, where dropout and the like add noise; "
                    "call eval() on it"
                )
        for name, count in self.recording.dropped.items():
            self.report.warnings.append(
                f"{name} is called with more signatures than are kept: {count} calls were not "
                "recorded"
            )
        return output

    def working_bytes(self) -> int:
        """What a run of the sample took beyond what is held between runs."""
        peaks = [s.peak_bytes for s in self.report.stages if s.title == RECORDING]
        return max(0, max(peaks, default=0) - held_bytes())

    def rerun(self, answer: Any = None) -> Any:
        """Run the finished model's sample, unless its answer is known; returns its output."""
        with self.stage("running the sample again") if answer is None else contextlib.nullcontext():
            # Compiled code may reuse the memory of this output when it is called again.
            output = on_cpu(self.run_sample(self.sample) if answer is None else answer)
        for row, _ in self._results:
            row.details.update(self.late_details(row))
        return output

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Show a stage, and note what it takes."""
        reset_peak()
        start = time.perf_counter()
        with self.progress.stage(title):
            yield
        seconds = time.perf_counter() - start
        self.report.stages.append(Stage(title=title, seconds=seconds, peak_bytes=peak_bytes()))

    def late_details(self, row: StepReport) -> dict[str, object]:
        """What a step that has run says of itself now."""
        result = next(result for reported, result in self._results if reported is row)
        return self.host.late_details(row.name, result)

    def timed_sample(self) -> tuple[float, Any]:
        """Run the sample; returns its time and its output."""
        return timed(lambda: self.run_sample(self.sample), self.model.wait)

    def run_sample(self, call: Mapping[str, Any]) -> Any:
        """Run the sample with these arguments; errors say when it stopped running."""
        self.sample_runs += 1
        try:
            with in_size(self.model, call) as arguments:
                return self.model.run(self._arguments(arguments), self.plan.recipe.seed)
        except CompilekitError:
            raise
        except (Exception, SystemExit) as error:
            why = summary(error)
            if self._running is not None:
                key = self._running.key
                raise StepError(f"{key}: the sample does not run in its warm-up: {why}") from error
            if self.report.steps:
                raise StepError(f"the sample no longer runs after the steps: {why}") from error
            hint = EXPORTED if isinstance(self.model.subject, torch.fx.GraphModule) else ""
            raise ModelError(
                f"the sample does not run on the model as loaded: {why}{hint}"
            ) from error

    def calls(self) -> tuple[Mapping[str, Any], ...]:
        """The sample with one denoising step, in every size of the recipe."""
        check_shapes(self.plan, self.model)
        calls = [sized(self.model, self.sample, size) for size in ({}, *self.plan.recipe.shapes)]
        return tuple(
            one_step(self.model, call) if self.model.is_pipeline else call for call in calls
        )

    def replay(self, component: str, *, exact: bool = False) -> int:
        """Run the recorded calls of a component or entry point, in the order of the sample."""
        chosen = [
            call
            for name, calls in self.recording.calls.items()
            if (name == component if exact else overlap(component, name))
            for call in calls
        ]
        for call in sorted(chosen, key=lambda call: call.index):
            run_call(self.model.entry_point(call.entry), call)
        return len(chosen)

    def recorded_with_references(self) -> dict[str, list[tuple[Call, Outputs]]]:
        """Every recorded call with the outputs of the reference."""
        references = self._verify.references if self._verify else {}
        return {
            name: list(zip(calls, references[name], strict=True))
            for name, calls in self.recording.calls.items()
        }

    def guard_saving(self) -> None:
        """Make `save_pretrained` raise if it would write a folder that loads wrong."""
        self.report.not_savable = guard_saving(self.model, self._begun, self._not_savable)

    def gate(self) -> None:
        """Raise if the finished model breaks the recipe's budgets."""
        verify = self.plan.recipe.verify
        if self.plan.whole is not None:  # it is not timed, and warns of that
            verify = verify.model_copy(update={"min_speedup": None})
        if problems := broken_budgets(verify, self.report, self.plan.purpose):
            raise VerificationError("the finished model is out of budget: " + "; ".join(problems))

    def _recorded_entries(self, steps: Sequence[PlannedStep]) -> list[EntryPoint]:
        """The entry points that a step names, and always those of the denoisers."""
        named = [name for step in steps for name in self.components(step)]
        entries = {
            entry.name: entry
            for name in [*named, *self.model.denoisers]
            for entry in self.model.entry_points(name)
        }
        return list(entries.values())

    def _titles(self) -> dict[str, str]:
        return {name: str(plugin) for name, plugin in self.host.plugins.items()}


def _check_match(step: PlannedStep, row: StepReport) -> None:
    if any(row.matched.values()) or step.allow_no_match:
        return
    reasons = "; ".join(f"{name}: {reason}" for name, reason in list(row.skipped.items())[:5])
    why = f" Left alone: {reasons}." if reasons else ""
    raise NoMatchError(
        f"{step.key} matched nothing in {', '.join(row.components)}.{why} "
        "If that is intended, set `allow_no_match: true`"
    )


def end_to_end(before: Any, after: Any) -> EndToEnd:
    """Compare the images of the sample before and after."""
    result = EndToEnd()
    old, new = images_of(before), images_of(after)
    if old is not None and new is not None and old.shape == new.shape:
        result.psnr, result.ssim = psnr(old, new), ssim(old, new)
    return result
