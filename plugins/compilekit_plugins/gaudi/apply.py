"""`apply`: the pipeline of this process, on "hpu"."""

from __future__ import annotations

from typing import TYPE_CHECKING

import compilekit as ck
from compilekit_plugins.gaudi import machine
from compilekit_plugins.gaudi.native import Native

if TYPE_CHECKING:
    from compilekit.model import Model
    from compilekit_plugins.gaudi.options import Gaudi


def native(model: Model, options: Gaudi, context: ck.StepContext) -> ck.StepResult:
    """Stock diffusers: put graphs in the places of entry points, and warm them up."""
    running = machine.told(lambda: Native(model, options, context.step.key), context.step.key)
    named = [name for name in context.step.components if name != "*"]
    running.install(context.components, named)
    running.warm_up(context.calls, context.run, context.progress)
    captured = running.captured()
    return ck.StepResult(
        matched=captured,
        changed=captured,
        skipped={name: f"runs as it is: {why}" for name, why in running.left().items()},
        details={"environment": machine.kept()},
        late_details=running.report,
        not_savable={},
    )
