"""The report of a run: what each step matched, changed, cost and gained."""

from compilekit.report.data import EndToEnd, Measurement, Report, StateChange, StepReport

__all__ = ["EndToEnd", "Measurement", "Report", "StateChange", "StepReport"]
