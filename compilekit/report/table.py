"""The report of a run on a terminal: its text, with the lines of steps in bold."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from compilekit.base.streams import OUT, own
from compilekit.base.texts import printable
from compilekit.report.report import Report, note_lines, table_lines, verdict_lines
from compilekit.report.verdict import kind

STYLES = {"faster": "bold green", "slower": "bold red", "same": "bold"}


def print_report(report: Report, console: Console | None = None) -> None:
    """Print what every step did, and how the sample fared from end to end."""
    console = console or Console(file=own(OUT))
    for line in verdict_lines(report):
        style = STYLES[kind(report.verdict)] if report.verdict else ""
        console.print(Text(printable(line), style=style), soft_wrap=True)
    for line in table_lines(report):
        style = "" if line.startswith(" ") else "bold"
        console.print(Text(printable(line), style=style), soft_wrap=True)
    for line in note_lines(report):
        console.print(Text(printable(line)), soft_wrap=True)
