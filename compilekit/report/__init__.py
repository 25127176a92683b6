"""The report of a run: what each step matched, changed, cost and gained."""

from compilekit.report.data import (
    EndToEnd,
    Measurement,
    Speed,
    StateChange,
    StepReport,
    Stage,
    Verdict,
)
from compilekit.report.report import Report

__all__ = [
    "EndToEnd",
    "Measurement",
    "Report",
    "Speed",
    "StateChange",
    "StepReport",
    "Stage",
    "Verdict",
]
