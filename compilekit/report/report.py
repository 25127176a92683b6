"""The report of a run, and its text: what each step did, entry by entry, in 80 columns.

Light: no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from compilekit.base.arguments import path_of
from compilekit.base.bytesize import size
from compilekit.base.columns import aligned
from compilekit.base.texts import printable
from compilekit.errors import UsageError
from compilekit.report.data import Data, EndToEnd, Measurement, Stage, StepReport, Verdict
from compilekit.report.verdict import sentence, speed_lines

NAME = 30
COLUMNS = f"{'error':>9}{'moved':>10}{'time':>12}{'speed-up':>15}"


class Report(Data):
    """Everything that a run measured. Times mean something only within one run.

    not_savable: components that `save_pretrained` refuses to write, with the step in the way.
    advice: what the steps say about this machine and this model.
    verdict: whether the finished model is faster; None if the run did not come so far.
    stages: where the time and the memory of the run went.
    allowed: the error that the recipe allows.

    >>> import compilekit as ck
    >>> import torch
    >>> net, recipe = torch.nn.Linear(8, 8), ck.Recipe.from_steps("precision{dtype=bfloat16}")
    >>> inputs = {"input": torch.ones(1, 8)}
    >>> applied = ck.apply(recipe, net, inputs=inputs, progress=False)
    >>> applied.report.baseline_of("model").error
    0.0
    """

    recipe: str
    digest: str
    device: str
    reference: str
    environment: dict[str, str] = Field(default_factory=dict)
    parameter_bytes: int = 0
    baseline: list[Measurement] = Field(default_factory=list)
    steps: list[StepReport] = Field(default_factory=list)
    final: list[Measurement] = Field(default_factory=list)
    end_to_end: EndToEnd | None = None
    not_savable: dict[str, str] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)
    advice: list[str] = Field(default_factory=list)
    verdict: Verdict | None = None
    stages: list[Stage] = Field(default_factory=list)
    allowed: float | None = None

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        file = path_of(path, "a report is saved in a file")
        try:
            file.write_text(self.to_json(), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{file}: cannot be written: {error.strerror}") from error

    def to_json(self) -> str:
        """The report as JSON text."""
        return self.model_dump_json(indent=2, fallback=str) + "\n"

    def baseline_of(self, entry: str) -> Measurement | None:
        """The measurement of an entry point before the first step."""
        return next((m for m in self.baseline if m.entry == entry), None)

    def speedup(self, measurement: Measurement) -> float | None:
        """How many times faster than before, or None where that would mislead."""
        before = self.baseline_of(measurement.entry)
        if before is None or not measurement.final or not measurement.seconds:
            return None
        return before.seconds / measurement.seconds

    def __str__(self) -> str:
        """The table that `compilekit apply` prints."""
        lines = [*verdict_lines(self), *table_lines(self), *note_lines(self)]
        return "\n".join(map(printable, lines))

    def __repr__(self) -> str:
        """One line: the recipe, and how far it came."""
        steps = f"{len(self.steps)} step{'s' * (len(self.steps) != 1)}"
        return f"<Report {printable(self.recipe)} on {self.device}: {steps}>"


def verdict_lines(report: Report) -> Iterator[str]:
    """The first line: how much faster it is, and how large the error."""
    if report.verdict is None:
        return
    worst = max((m.error for m in report.final), default=None)
    error = "" if worst is None else f", error {worst:.1e}"
    if error and report.allowed is not None:
        error += f" of the allowed {report.allowed:.1e}"
    yield sentence(report.verdict, error)


def table_lines(report: Report) -> Iterator[str]:
    """The table: a line for each step, and one for each entry point that it touched."""
    reference = "float32" if report.reference == "float32" else "the model as loaded"
    yield f"{report.recipe} on {report.device}; errors are relative L2 against {reference}"
    yield " " * NAME + COLUMNS
    yield f"as loaded: {size(report.parameter_bytes)}"
    yield from _entries(report, report.baseline)
    for step in report.steps:
        yield f"{step.name}: {_changed(step)}, {size(step.parameter_bytes)}, {step.seconds:.1f} s"
        yield from _entries(report, step.measurements)
    if report.final:
        yield "finished"
        yield from _entries(report, report.final)


def _entries(report: Report, measurements: list[Measurement]) -> Iterator[str]:
    for m in measurements:
        speedup = report.speedup(m)
        shown = f"{speedup:.2f}x" if speedup else "not compiled"
        numbers = f"{m.error:9.1e}{m.change:10.1e}{m.seconds * 1e3:9.1f} ms{shown:>15}"
        yield f"  {m.entry:<{NAME - 2}}{numbers}"


def _changed(step: StepReport) -> str:
    count = sum(len(names) for names in step.changed.values())
    matched = sum(len(names) for names in step.matched.values())
    return f"changed {count} of {matched} ({', '.join(step.changes)})"


def note_lines(report: Report) -> Iterator[str]:
    """What does not fit into the table."""
    if report.verdict is not None:
        yield from speed_lines(report.verdict)
    if report.end_to_end is not None:
        yield from _sample_lines(report.end_to_end)
    for step in report.steps:
        for key, value in step.details.items():
            yield f"{step.name}: {key.replace('_', ' ')}: {_shown(value)}"
        if step.skipped:
            first = "; ".join(f"{name}: {why}" for name, why in list(step.skipped.items())[:2])
            yield f"{step.name}: left alone {len(step.skipped)}, such as {first}"
        for key, change in step.state.items():
            fate = f"kept: {change.kept}" if change.kept else "put back"
            yield f"{step.name}: {key} went from {change.before} to {change.after}, {fate}"
    for component, reason in report.not_savable.items():
        yield f"save_pretrained of {component} raises: {reason}"
    yield from (f"warning: {warning}" for warning in report.warnings)
    yield from (f"advice: {sentence}" for sentence in report.advice)


def stage_lines(report: Report) -> Iterator[str]:
    """Where the time and the memory of the run went."""
    rows = [
        (stage.title, f"{stage.seconds:.2f} s", size(stage.peak_bytes)) for stage in report.stages
    ]
    yield from aligned([("stage", "time", "most memory"), *rows])


def _sample_lines(end: EndToEnd) -> Iterator[str]:
    if end.seconds_after:
        ratio = end.seconds_before / end.seconds_after
        # Where another machine draws what is not compiled, its time says nothing.
        before = f"{end.seconds_before:.2f} s before, " if end.seconds_before else ""
        compared = f" ({ratio:.2f}x)" if end.seconds_before else ""
        yield f"sample: {before}{end.seconds_after:.2f} s after{compared}"
    if end.psnr is not None and end.ssim is not None:
        yield f"images: PSNR {end.psnr:.1f} dB, SSIM {end.ssim:.4f} against the model as loaded"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(str(item) for item in value) or "none"
    return str(value)
