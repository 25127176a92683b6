"""compilekit: a pipeline and a recipe file in; a measured, verified, fast model out."""

from compilekit.api import Applied, apply, build, bundle_of, load, replay
from compilekit.batching.data import Batches, BatchTrial
from compilekit.benching.data import Bench, BenchRow
from compilekit.bisection.blame import Blame
from compilekit.bundle.loaded import Built, Loaded
from compilekit.bundle.manifest import Manifest
from compilekit.bundle.signature import Range
from compilekit.contexts import ExportContext, StepContext, WholeContext
from compilekit.errors import (
    BundleError,
    ClaimError,
    CompilekitError,
    Location,
    MachineError,
    MismatchError,
    ModelError,
    NoMatchError,
    NonFiniteError,
    PluginContractError,
    PluginError,
    PluginLoadError,
    Problem,
    RecipeError,
    SaveError,
    SealedError,
    SignatureError,
    StepError,
    SymbolicShapeError,
    UncoveredCallError,
    UsageError,
    VerificationError,
    WorkerError,
)
from compilekit.explanation.data import Explanation
from compilekit.hookspecs import hookimpl
from compilekit.host import Host, load_host
from compilekit.inquiry import bench, bisect, explain, largest_batch, preflight
from compilekit.plan import Plan, plan
from compilekit.pushing import push
from compilekit.recipe import Recipe
from compilekit.report import Report
from compilekit.signing import sign
from compilekit.steps import (
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
from compilekit.workers import run_worker

__version__ = "0.1.0"

__all__ = [
    "Applied",
    "BatchTrial",
    "Batches",
    "Bench",
    "BenchRow",
    "Blame",
    "Built",
    "BundleError",
    "ClaimError",
    "CompilekitError",
    "Effects",
    "Explanation",
    "ExportContext",
    "Host",
    "Loaded",
    "Location",
    "MachineError",
    "Manifest",
    "MismatchError",
    "ModelError",
    "NoMatchError",
    "NonFiniteError",
    "Options",
    "Part",
    "Plan",
    "PlannedStep",
    "PluginContractError",
    "PluginError",
    "PluginLoadError",
    "Problem",
    "Range",
    "Recipe",
    "RecipeError",
    "Report",
    "SaveError",
    "SealedError",
    "SignatureError",
    "StepContext",
    "StepDescription",
    "StepError",
    "StepResult",
    "StoredPart",
    "SymbolicShapeError",
    "UncoveredCallError",
    "UsageError",
    "VerificationError",
    "Whole",
    "WholeContext",
    "WorkerError",
    "apply",
    "bench",
    "bisect",
    "build",
    "bundle_of",
    "effects",
    "explain",
    "hookimpl",
    "largest_batch",
    "load",
    "load_host",
    "plan",
    "preflight",
    "push",
    "replay",
    "run_worker",
    "sign",
]
