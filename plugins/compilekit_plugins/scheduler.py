"""`scheduler`: another scheduler, with the config of the one that is there.

How many steps it takes is the pipeline's argument: `num_inference_steps` of the sample.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from pydantic import Field

import compilekit as ck

if TYPE_CHECKING:
    from compilekit.model import Model


class Scheduler(ck.Options):
    """Options of `scheduler`.

    name: the class: `DPMSolverMultistepScheduler`.
    config: settings that differ from those of the scheduler that is there.
    """

    name: str
    config: dict[str, bool | int | float | str] = Field(default_factory=dict)


@ck.hookimpl
def describe() -> ck.StepDescription:
    """Say what the step is."""
    return ck.StepDescription(
        help="Swap the scheduler for a compatible one, which may need fewer steps.",
        options=Scheduler,
        effects=lambda options, device: ck.effects("results"),  # noqa: ARG005
        components="optional",
    )


@ck.hookimpl
def optimize_model(model: Model, options: Scheduler, context: ck.StepContext) -> ck.StepResult:
    """Make the new scheduler of the old one's config, and put it in its place."""
    key = context.step.key
    old: Any = getattr(model.subject, "scheduler", None)
    if old is None:
        raise ck.StepError(f"{key}: a {type(model.subject).__name__} has no scheduler")
    kind = _compatible(old, options.name, key)
    known = set(inspect.signature(kind.__init__).parameters) - {"self"}
    unknown = sorted(options.config.keys() - known)
    if unknown:
        raise ck.StepError(
            f"{key}: {options.name} has no setting {unknown[0]}; it has {', '.join(sorted(known))}"
        )
    try:
        model.subject.scheduler = kind.from_config(old.config, **options.config)
    except (ImportError, ValueError, NotImplementedError) as error:
        raise ck.StepError(f"{key}: {options.name} cannot be made: {error}") from error
    said = {"scheduler": [f"{type(old).__name__} -> {options.name}"]}
    result = ck.StepResult(matched=said, changed=said)
    result.details = {"config": dict(options.config)}
    return result


def _compatible(old: Any, name: str, key: str) -> Any:
    kinds = {kind.__name__: kind for kind in (type(old), *old.compatibles)}
    if name not in kinds:
        raise ck.StepError(
            f"{key}: {name} cannot stand in for {type(old).__name__}; these can: "
            f"{', '.join(sorted(kinds))}"
        )
    return kinds[name]
