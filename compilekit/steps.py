"""The words about steps, under the name that plugins import them by."""

from compilekit.base.words import (
    ALL_COMPONENTS,
    CHANGES,
    DEVICES,
    SEVERITIES,
    SIZES,
    Change,
    Device,
    Purpose,
    Severity,
    Sizes,
)
from compilekit.plugin.steps import (
    FRESH,
    Effects,
    Options,
    Part,
    PlannedStep,
    StepDescription,
    StepResult,
    StoredPart,
    Whole,
    effects,
)

__all__ = [
    "ALL_COMPONENTS",
    "CHANGES",
    "DEVICES",
    "FRESH",
    "SEVERITIES",
    "SIZES",
    "Change",
    "Device",
    "Effects",
    "Options",
    "Part",
    "PlannedStep",
    "Purpose",
    "Severity",
    "Sizes",
    "StepDescription",
    "StepResult",
    "StoredPart",
    "Whole",
    "effects",
]
