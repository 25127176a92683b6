"""What a plan says about a machine and a recipe: what will be slow, or will fail late. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from compilekit.base.machine import Machine, this_machine
from compilekit.base.words import Purpose
from compilekit.plugin.host import Host
from compilekit.plugin.steps import PlannedStep
from compilekit.recipe import Recipe


def advice_on(
    recipe: Recipe,
    steps: Sequence[PlannedStep],
    host: Host,
    purpose: Purpose,
    machine: Machine | None,
) -> Iterator[str]:
    """Sentences about steps and the machine; by default this one, if it has the target's device."""
    device = recipe.target.device
    here = machine or this_machine()
    if device == "cpu" and (sentence := here.too_many_threads()):
        yield sentence
    is_known = machine is not None or device == "cpu" or (device == "cuda" and bool(here.gpus))
    count = _sizes(recipe)
    for step in steps:
        if is_known:
            for sentence in host.advice(step.name, step.options, device, here):
                yield f"{step.key}: {sentence}"
        if purpose == "build" and count > 1 and _serves_one(step, host):
            yield (
                f"{step.key} compiles for one size with these options, and `shapes:` and "
                f"the sample have {count}: make a bundle for each, or change the options"
            )


def _serves_one(step: PlannedStep, host: Host) -> bool:
    description = step.description
    return description.exports and description.whole is None and host.sizes(step) == "one"


def _sizes(recipe: Recipe) -> int:
    """How many sizes a recipe surely has; what its sample leaves to the model is not known."""
    names = sorted({name for shape in recipe.shapes for name in shape})
    calls: list[Mapping[str, object]] = [{}, *recipe.shapes]
    rows = [[{**recipe.sample, **call}.get(name) for name in names] for call in calls]
    return len({repr(row) for row in rows if None not in row})
