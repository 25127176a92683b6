"""The report of a run: what each step matched, changed, cost and gained."""

from compilekit.report.data import EndToEnd, Measurement, StateChange, StepReport
from compilekit.report.report import Report

__all__ = ["EndToEnd", "Measurement", "Report", "StateChange", "StepReport"]
