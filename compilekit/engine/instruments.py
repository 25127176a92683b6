"""Instruments around each step: keep state, check claims, measure memory, verify numbers.

Each instrument fills its part of the step's row. `after` is called in the order of the list: the
process-global state is restored before anything is measured, so the numbers are the user's.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from typing import Any

from compilekit.base.texts import summary
from compilekit.base.words import Change
from compilekit.engine.gate import check_step
from compilekit.engine.recording import Call, Recording, on_cpu, timed_call
from compilekit.engine.reference import (
    Outputs,
    needs_reference,
    outputs_of,
    reference_outputs,
)
from compilekit.errors import ClaimError, CompilekitError, NonFiniteError, StepError
from compilekit.measure import state
from compilekit.measure.compare import Difference, compare, merge
from compilekit.measure.memory import peak_bytes
from compilekit.measure.snapshot import Snapshot, changes, look
from compilekit.measure.times import several, timed
from compilekit.plan.order import gives, overlap
from compilekit.plugin.steps import PlannedStep, StepResult
from compilekit.report import Measurement, StateChange, StepReport
from compilekit.subject.model import EntryPoint, Model, parameter_bytes

TIMING_RUNS, TIMING_SECONDS = 15, 0.3
"""A call is timed at most so often, and for so long."""

NOISE = 1e-3
"""How far apart two runs of one call may be: kernels of a GPU add in any order."""


class Instrument:
    """What happens around one step; nothing, unless a method is overridden."""

    def before(self, step: PlannedStep) -> None:
        """Called before the step runs."""

    def after(self, step: PlannedStep, result: StepResult, row: StepReport) -> None:
        """Called when the step is done; raises if the step must not pass."""

    def failed(self) -> None:
        """Called instead of `after` if the step raised an error."""


class KeepState(Instrument):
    """Restores process-global state, or records why it stays."""

    def before(self, step: PlannedStep) -> None:
        del step
        self._before = state.snapshot()

    def after(self, step: PlannedStep, result: StepResult, row: StepReport) -> None:
        del step
        changed = self._before.diff(state.snapshot())
        kept = {key: why for key in changed if (why := _reason(key, result.kept_state))}
        state.restore(self._before, keep=kept)
        row.state = {
            key: StateChange(before=str(before), after=str(after), kept=kept.get(key, ""))
            for key, (before, after) in changed.items()
        }

    def failed(self) -> None:
        state.restore(self._before)


def _reason(key: str, reasons: Mapping[str, str]) -> str:
    return next((why for pattern, why in reasons.items() if fnmatch.fnmatchcase(key, pattern)), "")


class CheckClaims(Instrument):
    """Checks that a step changed exactly what its description claims."""

    # These do not show on a module: other results, and settings of the process or pipeline.
    UNSEEN: frozenset[Change] = frozenset({"results", "runtime"})

    def __init__(self, model: Model, titles: Mapping[str, str]) -> None:
        self._model = model
        self._titles = titles
        self._before: dict[str, Snapshot] = {}

    def before(self, step: PlannedStep) -> None:
        del step
        self._before = self._look()

    def after(self, step: PlannedStep, result: StepResult, row: StepReport) -> None:
        del row
        now = self._look()
        if "results" in step.effects.changes:
            return
        changed: dict[Change, list[str]] = {}
        for component in sorted(now):
            if component not in self._before:
                continue
            for change, names in changes(self._before[component], now[component]).items():
                where = [f"{component}.{name}".rstrip(".") for name in names]
                changed.setdefault(change, []).extend(where)
        who = f"{step.key}: plugin {self._titles[step.name]}"
        claimed = step.effects.changes
        # Another compiler than torch's may work by replacing a forward.
        allowed = claimed | {"runtime"} if "compiled" in claimed else claimed
        for change, names in changed.items():
            if change not in allowed:
                raise ClaimError(
                    f"{who} changed {change} of {_some(names)}, "
                    f"and claims to change only {', '.join(sorted(claimed))}"
                )
        if "compiled" in claimed and "runtime" in changed:
            changed.setdefault("compiled", changed["runtime"])
        for change in sorted(claimed - self.UNSEEN - set(changed)):
            if any(result.changed.values()):
                raise ClaimError(f"{who} claims to change {change}, and changed none of it")

    def _look(self) -> dict[str, Snapshot]:
        return {name: look(module) for name, module in self._model.modules.items()}


class Memory(Instrument):
    """Measures the bytes of the model, and the peak: of the GPU, or else of the process."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def after(self, step: PlannedStep, result: StepResult, row: StepReport) -> None:
        del step, result
        row.parameter_bytes = model_bytes(self._model)
        row.peak_bytes = peak_bytes()


def model_bytes(model: Model) -> int:
    """The bytes of the weights of all components."""
    return sum(parameter_bytes(module) for module in model.modules.values())


class Verify(Instrument):
    """Replays the recorded calls after each step, and checks how far outputs moved.

    references: the reference's outputs for each recorded call, by entry point.
    loaded: those of the model as loaded.
    """

    def __init__(
        self,
        model: Model,
        recording: Recording,
        steps: Sequence[PlannedStep],
        titles: Mapping[str, str],
        *,
        upcast: bool,
    ) -> None:
        self._model = model
        self._steps = steps
        self._titles = titles
        self._recording = recording
        self._calls: dict[str, list[Call]] = recording.calls
        self._done: list[PlannedStep] = []
        self._previous: dict[str, list[Outputs]] = {}
        self._now: dict[str, Measurement] = {}
        self._answer: Any = None
        self._stale = set(self._calls)
        self.references: dict[str, list[Outputs]] = {}
        for name, calls in self._calls.items():
            entry = model.entry_point(name)
            if upcast and needs_reference(entry.owner):
                self.references[name] = reference_outputs(entry, calls)
        self.baseline = [self._measure(name, "the model as loaded") for name in self._calls]
        self.loaded = dict(self._previous)

    def before(self, step: PlannedStep) -> None:
        del step
        self._stale = set(self._calls)

    def after(self, step: PlannedStep, result: StepResult, row: StepReport) -> None:
        del result
        row.verify_seconds, _ = timed(lambda: self._verify(step, row), self._model.wait)

    def _verify(self, step: PlannedStep, row: StepReport) -> None:
        self._done.append(step)
        who = f"{step.key}: plugin {self._titles[step.name]}"
        for name in self._calls:
            if any(overlap(component, name) for component in step.components):
                before = self._now[name].error
                measured = self._measure(name, who)
                row.measurements.append(measured)
                check_step(step, who, measured, before)

    def final(self, *, again: bool = False) -> list[Measurement]:
        """Every recorded entry point in the state that the user gets.

        again: measure all, also what no step has changed since it was measured.
        """
        if again:
            self._stale = set(self._calls)
        return [
            self._measure(name, "the finished model") if name in self._stale else self._last(name)
            for name in self._calls
        ]

    def answer(self) -> Any:
        """What a plain module gives for its sample after the last step; None if that must be run.

        A sample of a plain module is one call, and that has been run for the numbers.
        """
        is_known = len(self._recording.answers) == 1 and not self._stale
        return self._answer if is_known else None

    @property
    def compiled(self) -> dict[str, bool]:
        """Whether the recipe compiles an entry point."""
        return {name: _compiles(self._done, name) for name in self._calls}

    def apart(self, name: str, again: Outputs) -> float:
        """How far the outputs of one call, run again on the model as loaded, are from the first."""
        middle = len(self._calls[name]) // 2
        try:
            found = _differences([again], self.loaded[name][middle : middle + 1], name)
        except (NonFiniteError, StepError):
            return math.inf
        return found.relative_l2

    def _last(self, name: str) -> Measurement:
        """What was measured after the last step; it is the finished model's too."""
        return self._now[name].model_copy(update={"change": 0.0})

    def _run(self, entry: EntryPoint, where: str) -> tuple[list[Outputs], float]:
        """The outputs of the recorded calls, and the seconds of the middle one."""
        calls = self._calls[entry.name]
        middle = calls[len(calls) // 2]
        known = {} if entry.name in self._previous else self._recording.answers
        outputs: list[Outputs] = []
        times: list[float] = []
        warm = set[str]()
        try:
            for call in calls:
                answer = known.get(call.index)
                seconds, output = answer or timed_call(entry, call, self._model.wait)
                outputs.append(outputs_of(output))
                if call.index in self._recording.answers:
                    self._answer = on_cpu(output)
                # Code may be compiled in the first call of each size.
                if call is middle and (call.signature in warm or not self._is_cold(entry.name)):
                    times.append(seconds)
                warm.add(call.signature)
            times += several(
                lambda: timed_call(entry, middle, self._model.wait)[0],
                least=0 if times else 1,
                most=TIMING_RUNS,
                seconds=TIMING_SECONDS - sum(times),
            )
        except CompilekitError:
            raise
        except (Exception, SystemExit) as raised:
            raise StepError(f"{where}: {entry.name} no longer runs: {summary(raised)}") from raised
        return outputs, min(times)  # other work on the machine only adds to it

    def _is_cold(self, name: str) -> bool:
        """Whether the next call may compile: the last step changed what is compiled."""
        return bool(self._done) and _compiles(self._done[-1:], name)

    def _measure(self, name: str, where: str) -> Measurement:
        entry = self._model.entry_point(name)
        outputs, seconds = self._run(entry, where)
        reference = self.references.setdefault(name, outputs)
        at = f"{where}: {name}"
        error = _differences(outputs, reference, at)
        change = _differences(outputs, self._previous.get(name, outputs), at)
        self._previous[name] = outputs
        self._stale.discard(name)
        self._now[name] = Measurement(
            entry=name,
            calls=len(outputs),
            seconds=seconds,
            change=change.relative_l2,
            error=error.relative_l2,
            cosine=error.cosine,
            max_abs=error.max_abs,
            compiled=_compiles(self._done, name),
            final=not _compiles(self._steps, name) or _compiles(self._done, name),
        )
        return self._now[name]


def _compiles(steps: Sequence[PlannedStep], name: str) -> bool:
    return any(
        "compiled" in gives(step.effects) and any(overlap(c, name) for c in step.components)
        for step in steps
    )


def _differences(outputs: list[Outputs], reference: list[Outputs], where: str) -> Difference:
    pairs = zip(outputs, reference, strict=True)
    try:
        worst = merge([compare(dict(actual), dict(expected)) for actual, expected in pairs])
    except StepError as error:
        raise StepError(f"{where}: {error}") from error
    if not worst.finite:
        tensor = f" ({worst.where})" if worst.where else ""
        raise NonFiniteError(f"{where} gives NaN or infinity{tensor}")
    return worst


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown  # noqa: PLR2004
