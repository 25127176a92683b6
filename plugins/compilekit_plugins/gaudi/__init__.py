"""`gaudi`: Intel Gaudi, by stock diffusers with HPU graphs or torch.compile, or by optimum-habana.

The driver package reads its settings while it is imported, so `prepare` comes before torch. Builds
run in a worker, which nothing has been imported into; what they make is the recipe cache of a
warm-up, which loading repeats.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import compilekit as ck
from compilekit_plugins.gaudi import machine
from compilekit_plugins.gaudi.options import Gaudi, objections
from compilekit_plugins.gaudi.worker import config, packages

if TYPE_CHECKING:
    from compilekit.model import Model
    from compilekit.steps import Change, Device


def _effects(options: Gaudi, device: Device) -> ck.Effects:
    del device
    # Bundles hold a folder that stock diffusers reads, and so do optimum's pipelines.
    # What optimum-habana captures cannot be seen on the components; of some it replaces attention.
    is_optimum = options.engine == "optimum"
    changes: tuple[Change, ...] = ("runtime", "structure") if is_optimum else ("compiled",)
    return ck.effects(
        *changes,
        needs=["stock_state_dict"],
        gives=["compiled"],
        conflicts=["compiled", "offloaded"],
    )


def _reads(options: Gaudi) -> list[str]:
    named = options.gaudi_config
    return [named] if named and named not in config.names() else []


@ck.hookimpl
def describe() -> ck.StepDescription:
    """Say what the step is."""
    return ck.StepDescription(
        help="Run on Intel Gaudi: HPU graphs or torch.compile, warmed up, with stored recipes.",
        options=Gaudi,
        effects=_effects,
        targets=frozenset({"hpu"}),
        budget=0.02,
        components="optional",
        check=objections,
        prepare=machine.prepare,
        variables=("HABANA", "PT_", "GC_"),
        move=machine.move,
        wait=machine.wait,
        judge=machine.judge,
        exports=True,
        reads=_reads,
        whole=ck.Whole(
            fingerprint=packages.stamps,
            missing=machine.missing,
            ingredients=machine.ingredients,
            preflight=("host",),
            doctor=machine.doctor,
            shapes=True,
        ),
    )


@ck.hookimpl
def optimize_model(model: Model, options: Gaudi, context: ck.StepContext) -> ck.StepResult:
    """Capture or compile the entry points, and warm them up."""
    from compilekit_plugins.gaudi import apply

    run = apply.optimum if options.engine == "optimum" else apply.native
    return run(model, options, context)


@ck.hookimpl
def export(model: Model, options: Gaudi, destination: Path, context: ck.WholeContext) -> ck.Part:
    """Warm the pipeline up in a worker, and keep the recipes that this compiles."""
    from compilekit_plugins.gaudi.bundle import build

    return build(model, options, destination, context)


@ck.hookimpl
def load_compiled(part: ck.StoredPart, context: ck.StepContext) -> Any:
    """Compare the stamps, and warm up with the stored recipes."""
    from compilekit_plugins.gaudi.bundle import load

    options: Any = context.step.options
    return load(part, options, context.step.key)
