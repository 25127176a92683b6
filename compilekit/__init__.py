"""compilekit: a pipeline and a recipe file in; a measured, verified, fast model out."""

# Ctrl-C while all this is imported ends the command without a traceback.
import compilekit.base.interrupts

# Packages that share their name with a function come first: importing one later would replace it.
import compilekit.build
import compilekit.load
import compilekit.plan  # noqa: F401
from compilekit.api import (
    Applied,
    apply,
    bench,
    bisect,
    build,
    bundle_of,
    explain,
    largest_batch,
    load,
    machine,
    preflight,
    replay,
    tune,
)
from compilekit.base.component import ComponentFacts
from compilekit.base.machine import Machine
from compilekit.base.words import Range
from compilekit.bundle.loaded import Built, Loaded
from compilekit.bundle.manifest import Manifest
from compilekit.bundle.signing import sign
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
from compilekit.plan.plan import Plan, plan
from compilekit.plugin.contexts import ExportContext, StepContext, WholeContext
from compilekit.plugin.hookspecs import hookimpl
from compilekit.plugin.host import Host, load_host
from compilekit.plugin.steps import (
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
from compilekit.recipe import Recipe
from compilekit.report import Report
from compilekit.ship.push import push
from compilekit.studies.batch.data import Batches, BatchTrial
from compilekit.studies.bench.data import BenchRow
from compilekit.studies.bench.result import Bench
from compilekit.studies.bisect.blame import Blame
from compilekit.studies.explain.explanation import Explanation
from compilekit.studies.tune.data import Trial
from compilekit.studies.tune.result import Tuned
from compilekit.workers import run_worker

__version__ = "0.1.0"


def __dir__() -> list[str]:
    """The public names alone."""
    return sorted(__all__)


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
    "ComponentFacts",
    "Effects",
    "Explanation",
    "ExportContext",
    "Host",
    "Loaded",
    "Location",
    "Machine",
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
    "Trial",
    "Tuned",
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
    "machine",
    "plan",
    "preflight",
    "push",
    "replay",
    "run_worker",
    "sign",
    "tune",
]
