"""The report as text: what each step did, entry point by entry point, in 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from compilekit.base.bytesize import size
from compilekit.base.streams import OUT, own
from compilekit.report.data import Measurement, Report, StepReport

NAME = 30
COLUMNS = f"{'error':>9}{'moved':>10}{'time':>12}{'speed-up':>15}"


def print_report(report: Report, console: Console | None = None) -> None:
    """Print what every step did, and how the sample fared from end to end."""
    console = console or Console(file=own(OUT))
    for line in report_lines(report):
        style = "" if line.startswith(" ") else "bold"
        console.print(Text(line, style=style), soft_wrap=True)
    for line in _notes(report):
        console.print(Text(line), soft_wrap=True)


def report_lines(report: Report) -> Iterator[str]:
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


def _notes(report: Report) -> Iterator[str]:
    end = report.end_to_end
    if end is not None:
        ratio = end.seconds_before / end.seconds_after if end.seconds_after else 0.0
        # Where another machine draws what is not compiled, its time says nothing.
        before = f"{end.seconds_before:.2f} s before, " if end.seconds_before else ""
        compared = f" ({ratio:.2f}x)" if end.seconds_before else ""
        yield f"sample: {before}{end.seconds_after:.2f} s after{compared}"
        if end.psnr is not None and end.ssim is not None:
            yield f"images: PSNR {end.psnr:.1f} dB, SSIM {end.ssim:.4f} against the model as loaded"
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


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(str(item) for item in value) or "none"
    return str(value)
