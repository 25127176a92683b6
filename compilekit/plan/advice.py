"""What a plan says about a machine and a recipe: what will be slow, or will fail late. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from compilekit.base.machine import NUMBERS, Machine, this_machine
from compilekit.base.words import Device, Purpose
from compilekit.plugin.host import Host
from compilekit.plugin.steps import PlannedStep
from compilekit.recipe import Recipe, Tuned


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
    if is_known and recipe.tuned and (why := _tuned_elsewhere(recipe.tuned, here, device)):
        yield why
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


def kind_of(machine: Machine) -> Tuned:
    """What `tune` writes into a recipe of the machine that it measured on."""
    return Tuned(
        cpu=machine.cpu,
        cores=machine.cores,
        numbers=tuple(n for n in NUMBERS[1:] if machine.computes(n)),
        gpus=tuple(gpu.name for gpu in machine.gpus),
    )


def _tuned_elsewhere(there: Tuned, here: Machine, device: Device) -> str:
    """That a recipe was tuned on another kind of machine; empty if it was tuned on such a one."""
    now = kind_of(here)
    names = ("gpus",) if device == "cuda" else ("cpu", "cores", "numbers")
    if all(getattr(there, name) == getattr(now, name) for name in names):
        return ""
    return (
        f"the recipe was tuned on another kind of machine ({_kind(there, device)}; here: "
        f"{_kind(now, device)}): `compilekit tune` finds what is fastest here"
    )


def _kind(tuned: Tuned, device: Device) -> str:
    if device == "cuda":
        return ", ".join(tuned.gpus) or "no GPU"
    has = f" with {', '.join(tuned.numbers)}" if tuned.numbers else ""
    return f"{tuned.cores} cores of {tuned.cpu}{has}"


def _serves_one(step: PlannedStep, host: Host) -> bool:
    description = step.description
    return description.exports and description.whole is None and host.sizes(step) == "one"


def _sizes(recipe: Recipe) -> int:
    """How many sizes a recipe surely has; what its sample leaves to the model is not known."""
    names = sorted({name for shape in recipe.shapes for name in shape})
    calls: list[Mapping[str, object]] = [{}, *recipe.shapes]
    rows = [[{**recipe.sample, **call}.get(name) for name in names] for call in calls]
    return len({repr(row) for row in rows if None not in row})
