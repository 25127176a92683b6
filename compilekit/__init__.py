"""compilekit: a pipeline and a recipe file in; a measured, verified, fast model out."""

from compilekit.api import Applied, apply
from compilekit.errors import (
    ClaimError,
    CompilekitError,
    Location,
    MachineError,
    ModelError,
    NoMatchError,
    NonFiniteError,
    PluginContractError,
    PluginError,
    PluginLoadError,
    Problem,
    RecipeError,
    SaveError,
    StepError,
    UsageError,
    VerificationError,
)
from compilekit.hookspecs import hookimpl
from compilekit.host import Host, load_host
from compilekit.plan import Plan, plan
from compilekit.recipe import Recipe
from compilekit.report import Report
from compilekit.steps import (
    Effects,
    Options,
    PlannedStep,
    StepContext,
    StepDescription,
    StepResult,
    effects,
)

__version__ = "0.1.0"

__all__ = [
    "Applied",
    "ClaimError",
    "CompilekitError",
    "Effects",
    "Host",
    "Location",
    "MachineError",
    "ModelError",
    "NoMatchError",
    "NonFiniteError",
    "Options",
    "Plan",
    "PlannedStep",
    "PluginContractError",
    "PluginError",
    "PluginLoadError",
    "Problem",
    "Recipe",
    "RecipeError",
    "Report",
    "SaveError",
    "StepContext",
    "StepDescription",
    "StepError",
    "StepResult",
    "UsageError",
    "VerificationError",
    "apply",
    "effects",
    "hookimpl",
    "load_host",
    "plan",
]
