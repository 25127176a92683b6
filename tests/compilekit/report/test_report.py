"""The lines that stand under a report's table."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from compilekit.report import EndToEnd, Report
from compilekit.report.table import print_report


@pytest.mark.parametrize(
    ("before", "line"),
    [(3.0, "sample: 3.00 s before, 1.50 s after (2.00x)"), (0.0, "sample: 1.50 s after")],
)
def test_a_time_that_was_not_measured_is_not_compared(before, line):
    times = EndToEnd(seconds_before=before, seconds_after=1.5)
    report = Report(recipe="tiny", digest="", device="cpu", reference="float32", end_to_end=times)
    printed = io.StringIO()
    print_report(report, Console(file=printed))
    assert printed.getvalue().splitlines()[-1] == line
