"""`apply`: the pipeline of this process, on "hpu"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import compilekit as ck
from compilekit_plugins.gaudi import machine
from compilekit_plugins.gaudi.guard import Watched
from compilekit_plugins.gaudi.native import Native
from compilekit_plugins.gaudi.worker import recipes

if TYPE_CHECKING:
    from compilekit.model import Model
    from compilekit_plugins.gaudi.options import Gaudi


def native(model: Model, options: Gaudi, context: ck.StepContext) -> ck.StepResult:
    """Stock diffusers: put graphs in the places of entry points, and warm them up."""
    running = machine.told(lambda: Native(model, options, context.step.key), context.step.key)
    running.install(context.components, context.step.components)
    calls = list(map(recipes.several_steps, context.calls))
    running.warm_up(calls, context.run, context.progress)
    captured = running.captured()
    return ck.StepResult(
        matched=captured,
        changed=captured,
        skipped={name: f"runs as it is: {why}" for name, why in running.eager().items()},
        details={"environment": dict(machine.VARIABLES)},
        late_details=running.report,
    )


def optimum(model: Model, options: Gaudi, context: ck.StepContext) -> ck.StepResult:
    """optimum-habana's own pipeline, with the components of the one that was passed in."""
    from compilekit_plugins.gaudi.worker import optimum as vendor

    key = context.step.key
    if not model.is_pipeline:
        raise ck.StepError(f"{key}: optimum-habana has pipelines, and nothing for a plain module")
    kind = type(model.subject).__name__
    values = options.model_dump(mode="json")
    forwards, processors = _forwards(), _processors(model)
    model.subject = machine.told(lambda: vendor.gaudi_pipeline(model.subject, kind, values), key)
    for number, call in enumerate(context.calls, 1):
        context.progress(f"warming up {number} of {len(context.calls)}")
        context.run(recipes.several_steps(call))
    watched = Watched(model.subject, key, options.recompiles)
    names = {name: [type(module).__name__] for name, module in model.modules.items()}
    replaced: dict[str, list[str]] = {}
    for path, processor in _processors(model).items():
        if processors.get(path) is not processor:
            replaced.setdefault(path.partition(".")[0], []).append(path)
    return ck.StepResult(
        matched=names,
        changed=replaced,
        details={
            "class": type(model.subject).__name__,
            "scheduler": type(model.subject.scheduler).__name__,
            "environment": dict(machine.VARIABLES),
            # For good, and for every pipeline of this process.
            "replaced_in_diffusers": [
                name for name, forward in _forwards().items() if forward is not forwards[name]
            ],
        },
        late_details=lambda: {**vendor.report(model.subject), **watched.report()},
        not_savable=dict.fromkeys(names, "made a pipeline of optimum-habana out of it"),
    )


def _processors(model: Model) -> dict[str, Any]:
    """The attention processors of the components: FLUX and others get optimum-habana's own."""
    return {
        f"{name}.{path}": module.processor
        for name, owner in model.modules.items()
        for path, module in owner.named_modules()
        if hasattr(module, "processor")
    }


def _forwards() -> dict[str, Any]:
    """The functions of diffusers that optimum-habana replaces for the whole process."""
    import diffusers

    owners = (diffusers.UNet2DConditionModel, diffusers.UNet2DModel)
    return {f"{owner.__name__}.forward": owner.forward for owner in owners}
