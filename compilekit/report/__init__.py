"""The report of a run: what each step matched, changed, cost and gained."""

from compilekit.report.data import (
    EndToEnd,
    Measurement,
    Speed,
    Stage,
    StateChange,
    StepReport,
    Verdict,
)
from compilekit.report.report import Report

__all__ = [
    "EndToEnd",
    "Measurement",
    "Report",
    "Speed",
    "Stage",
    "StateChange",
    "StepReport",
    "Verdict",
]
