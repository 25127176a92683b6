"""`gaudi`: Intel Gaudi, by stock diffusers with HPU graphs or torch.compile, or by optimum-habana.

The driver package reads its settings while it is imported, so `prepare` comes before torch. Builds
run in a worker, which nothing has been imported into; what they make is the recipe cache of a
warm-up, which loading repeats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import compilekit as ck
from compilekit_plugins.gaudi import machine
from compilekit_plugins.gaudi.options import Gaudi, objections

if TYPE_CHECKING:
    from compilekit.model import Model
    from compilekit.steps import Device


def _effects(options: Gaudi, device: Device) -> ck.Effects:
    del device
    needs = ["stock_state_dict"] if options.engine == "optimum" else []
    return ck.effects("compiled", needs=needs, conflicts=["compiled", "offloaded"])


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
    )


@ck.hookimpl
def optimize_model(model: Model, options: Gaudi, context: ck.StepContext) -> ck.StepResult:
    """Capture or compile the entry points, and warm them up."""
    from compilekit_plugins.gaudi.apply import native

    return native(model, options, context)
