"""The report of a run on a terminal: its text, with the verdict and the lines of steps in bold."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from compilekit.base.streams import ERR, OUT, own
from compilekit.base.texts import printable
from compilekit.report.report import Report, note_lines, stage_lines, table_lines, verdict_lines
from compilekit.report.verdict import kind, sentence

STYLES = {"faster": "bold green", "slower": "bold red", "same": "bold"}


def print_report(report: Report, console: Console | None = None, *, timings: bool = False) -> None:
    """Print whether the result is faster, what every step did, and how alike the images are.

    timings: also where the time and the memory of the run went.
    """
    console = console or Console(file=own(OUT))

    def show(lines: Iterable[str], style: str = "") -> None:
        for line in lines:
            chosen = style if not line.startswith(" ") else ""
            console.print(Text(printable(line), style=chosen), soft_wrap=True)

    show(verdict_lines(report), STYLES[kind(report.verdict)] if report.verdict else "")
    show(table_lines(report), "bold")
    show(note_lines(report))
    show(stage_lines(report) if timings else ())


def warn_if_slower(report: Report) -> None:
    """Say on standard error that the result is slower, which the table may bury."""
    if report.verdict is None or kind(report.verdict) != "slower":
        return
    text = f"compilekit: the result is {sentence(report.verdict)}"
    console = Console(file=own(ERR), stderr=True)
    console.print(Text(printable(text), style=STYLES["slower"]), soft_wrap=True)
