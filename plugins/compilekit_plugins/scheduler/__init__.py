"""`scheduler`: another scheduler, with the config of the one that is there; its numbers on the CPU.

How many steps it takes is the pipeline's argument: `num_inference_steps` of the sample.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

import compilekit as ck

if TYPE_CHECKING:
    from compilekit.model import Model
    from compilekit.steps import Device


class Scheduler(ck.Options):
    """Options of `scheduler`.

    name: the class: `DPMSolverMultistepScheduler`. Left out, the one that is there stays.
    config: settings that differ from those of the scheduler that is there.
    on_cpu: keep its tables and timesteps on the CPU, so that no step waits for the GPU.
    """

    name: str = ""
    config: dict[str, bool | int | float | str] = Field(default_factory=dict)
    on_cpu: bool = False

    @model_validator(mode="after")
    def _says_something(self) -> Scheduler:
        if not (self.name or self.config or self.on_cpu):
            raise ValueError("say which scheduler by `name`, its `config`, or `on_cpu: true`")
        return self


def _effects(options: Scheduler, device: Device) -> ck.Effects:
    del device
    kinds = ["results"] if options.name or options.config else []
    return ck.effects(*kinds, *(["runtime"] if options.on_cpu else []))  # type: ignore[arg-type]


@ck.hookimpl
def describe() -> ck.StepDescription:
    """Say what the step is."""
    return ck.StepDescription(
        help="Swap the scheduler for one that may need fewer steps; keep its numbers on the CPU.",
        options=Scheduler,
        effects=_effects,
        components="optional",
    )


@ck.hookimpl
def optimize_model(model: Model, options: Scheduler, context: ck.StepContext) -> ck.StepResult:
    """Make the new scheduler of the old one's config, and put it in its place."""
    key = context.step.key
    old: Any = getattr(model.subject, "scheduler", None)
    if old is None:
        raise ck.StepError(f"{key}: this {type(model.subject).__name__} has no scheduler")
    done = []
    # A bundle holds the new scheduler; only what a config cannot say is done again.
    if (options.name or options.config) and context.purpose != "load":
        model.subject.scheduler = _new(old, options, key)
        done.append(f"{type(old).__name__} -> {type(model.subject.scheduler).__name__}")
    if options.on_cpu:
        from compilekit_plugins.scheduler.on_cpu import keep_on_cpu

        keep_on_cpu(model.subject.scheduler)
        done.append("tables and timesteps on the CPU")
    changes = {"scheduler": done}
    details: dict[str, object] = {"config": dict(options.config)}
    return ck.StepResult(matched=changes, changed=changes, details=details)


def _new(old: Any, options: Scheduler, key: str) -> Any:
    kinds = {kind.__name__: kind for kind in (type(old), *old.compatibles)}
    name = options.name or type(old).__name__
    if name not in kinds:
        raise ck.StepError(
            f"{key}: {name} cannot stand in for {type(old).__name__}; these can: "
            f"{', '.join(sorted(kinds))}"
        )
    kind = kinds[name]
    known = set(inspect.signature(kind.__init__).parameters) - {"self"}
    unknown = sorted(options.config.keys() - known)
    if unknown:
        raise ck.StepError(
            f"{key}: {name} has no setting {unknown[0]}; it has {', '.join(sorted(known))}"
        )
    try:
        return kind.from_config(old.config, **options.config)
    except (ImportError, ValueError, NotImplementedError) as error:
        raise ck.StepError(f"{key}: {name} cannot be made: {error}") from error
