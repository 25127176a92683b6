"""The report as tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from compilekit.report.data import Measurement, Report, StepReport

NUMBERS = ("error", "moved", "time", "speed-up")


def print_report(report: Report, console: Console | None = None) -> None:
    """Print what every step did, and how the sample fared from end to end."""
    console = console or Console()
    console.print(_steps(report))
    for line in _notes(report):
        console.print(Text(line), soft_wrap=True)


def _steps(report: Report) -> Table:
    reference = "float32" if report.reference == "float32" else "the model as loaded"
    table = Table(
        title=f"{report.recipe} on {report.device}; errors are relative L2 against {reference}",
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for column in ("step", "changed", "entry point"):
        table.add_column(column, overflow="fold")
    for column in (*NUMBERS, "weights", "took"):
        table.add_column(column, justify="right", no_wrap=True)
    _add(table, report, "as loaded", "", report.baseline, _size(report.parameter_bytes), "")
    for step in report.steps:
        took = f"{step.seconds:.1f} s"
        weights = _size(step.parameter_bytes)
        _add(table, report, step.name, _changed(step), step.measurements, weights, took)
    _add(table, report, "finished", "", report.final, "", "")
    return table


def _add(
    table: Table,
    report: Report,
    name: str,
    changed: str,
    measurements: list[Measurement],
    weights: str,
    took: str,
) -> None:
    if not measurements:
        table.add_row(name, changed, "", "", "", "", "", weights, took)
    for index, measured in enumerate(measurements):
        numbers = _numbers(report, measured)
        if index == 0:
            table.add_row(name, changed, measured.entry, *numbers, weights, took)
        else:
            table.add_row("", "", measured.entry, *numbers, "", "")


def _numbers(report: Report, measured: Measurement) -> tuple[str, ...]:
    speedup = report.speedup(measured)
    return (
        f"{measured.error:.1e}",
        f"{measured.change:.1e}",
        f"{measured.seconds * 1e3:.1f} ms",
        f"{speedup:.2f}x" if speedup else "not compiled",
    )


def _changed(step: StepReport) -> str:
    count = sum(len(names) for names in step.changed.values())
    matched = sum(len(names) for names in step.matched.values())
    return f"{count} of {matched} ({', '.join(step.changes)})" if matched else "nothing"


def _size(count: int) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:  # noqa: PLR2004
            return f"{count:.3g} {unit}"
        count /= 1000  # type: ignore[assignment]
    return f"{count:.3g} GB"


def _notes(report: Report) -> Iterator[str]:
    end = report.end_to_end
    if end is not None:
        ratio = end.seconds_before / end.seconds_after if end.seconds_after else 0.0
        yield (
            f"sample: {end.seconds_before:.2f} s before, {end.seconds_after:.2f} s after "
            f"({ratio:.2f}x)"
        )
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
