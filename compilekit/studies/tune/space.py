"""What there is to choose from: steps and options by component, and the recipes made of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from compilekit.base.component import ComponentFacts
from compilekit.base.machine import Machine
from compilekit.base.words import ALL_COMPONENTS, DEVICES, Device, Purpose
from compilekit.errors import PluginError, RecipeError
from compilekit.plan.order import gives, overlap
from compilekit.plan.plan import Plan, in_order, plan
from compilekit.plugin.answers import shown
from compilekit.plugin.host import Host
from compilekit.recipe import Document, check
from compilekit.recipe.choices import Alternative, alternatives, chosen
from compilekit.recipe.text import steps_to_text

LOOKS = 1000
"""So many recipes are looked at for one that the planner allows."""

Point = tuple[int, ...]
"""One choice for each slot."""

LEAST_SHARE = 0.02
"""Components that take less of the sample's time cannot gain enough to be worth a trial."""


@dataclass(frozen=True)
class Slot:
    """One step, and the ways to write it; a way whose item is None leaves it out."""

    ways: tuple[Alternative, ...]
    components: frozenset[str]

    @property
    def without(self) -> int | None:
        """The way that leaves the step out."""
        return next((i for i, way in enumerate(self.ways) if way.item is None), None)


@dataclass
class Space:
    """All recipes that can be made of some slots. What the planner refuses is left out.

    start: as few steps as possible.
    refused: why, by the steps of the recipe.
    lacking: what is not installed, by the steps that need it.
    """

    document: Document
    slots: tuple[Slot, ...]
    host: Host
    purpose: Purpose
    free_order: bool
    refused: dict[str, str] = field(default_factory=dict)
    lacking: dict[str, str] = field(default_factory=dict)
    start: Point = ()
    _plans: dict[Point, Plan | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Find where to start; raises what the planner says if it refuses every recipe."""
        least = tuple(slot.without or 0 for slot in self.slots)
        every = itertools.product(*(range(len(slot.ways)) for slot in self.slots))
        points = itertools.islice(itertools.chain([least], every), LOOKS)
        found = next((point for point in points if self.plan(point) is not None), None)
        if found is None:
            raise self._fault
        self.start = found
        self.refused.clear()

    @property
    def size(self) -> int:
        """How many recipes there are, those that the planner refuses included."""
        count = 1
        for slot in self.slots:
            count *= len(slot.ways)
        return count

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """The slots that belong together, because they work on the same components."""
        groups: list[tuple[frozenset[str], list[int]]] = []
        for index, slot in enumerate(self.slots):
            touched = [g for g in groups if _meet(g[0], slot.components)]
            groups = [g for g in groups if g not in touched]
            names = slot.components.union(*(g[0] for g in touched))
            groups.append((names, sorted([*(i for g in touched for i in g[1]), index])))
        return [tuple(members) for _, members in groups]

    def components(self, group: Sequence[int]) -> frozenset[str]:
        """The components that a group of slots works on."""
        return frozenset().union(*(self.slots[index].components for index in group))

    def plan(self, point: Point) -> Plan | None:
        """The checked recipe of a point; None if the planner refuses it."""
        if point not in self._plans:
            self._plans[point] = self._planned(point)
        return self._plans[point]

    def is_compiled(self, point: Point, group: Sequence[int]) -> bool:
        """Whether some step compiles what a group works on."""
        found, names = self.plan(point), self.components(group)
        return found is not None and any(
            "compiled" in gives(step.effects) and _meet(frozenset(step.components), names)
            for step in found.steps
        )

    def label(self, slot: int, way: int) -> str:
        """How a choice reads: its steps in the compact form, or "without NAME"."""
        found = self.slots[slot].ways[way]
        if found.item is not None:
            return text_of([found], self.document)
        other = next(w for w in self.slots[slot].ways if w.item is not None)
        return f"without {next(iter(other.item)) if isinstance(other.item, dict) else other.item}"

    def _planned(self, point: Point) -> Plan | None:
        taken = [slot.ways[way] for slot, way in zip(self.slots, point, strict=True)]
        draft, problems = check(chosen(self.document, taken))
        recipe, fault = draft.recipe, RecipeError(problems)
        if recipe is not None:
            if self.free_order:
                recipe = in_order(recipe, host=self.host, for_=self.purpose)
            try:
                return plan(recipe, host=self.host, for_=self.purpose)
            except RecipeError as error:
                fault = error
        self._fault = fault
        self.refused[text_of(taken, self.document)] = str(fault)
        return None


def text_of(taken: Sequence[Alternative], document: Document) -> str:
    """Steps in the compact form, as far as they can be read."""
    draft, _ = check(chosen(document, list(taken)))
    return steps_to_text(draft.steps)


def given(document: Document, host: Host, purpose: Purpose) -> Space:
    """The space of a recipe with `choices:`."""
    slots = []
    for ways in alternatives(document):
        draft, problems = check(chosen(document, [w for w in ways if w.item is not None]))
        if problems:
            raise RecipeError(problems)
        names = {name for step in draft.steps for name in step.components or (ALL_COMPONENTS,)}
        slots.append(Slot(tuple(ways), frozenset(name.split(".")[0] for name in names)))
    return Space(document, tuple(slots), host, purpose, free_order=False)


def offered(
    document: Document,
    components: Sequence[ComponentFacts],
    host: Host,
    machine: Machine,
    purpose: Purpose,
) -> Space:
    """The space that the plugins offer for a model's components on a machine."""
    device = check(document)[0].device or "cpu"
    slots, lacking = [], {}
    for component in components:
        for name in sorted(host.descriptions):
            options = _candidates(host, name, component, device, machine)
            if options and (lacks := host.describe(name).lacks):
                lacking[name] = f"needs {', '.join(lacks)}: {host.describe(name).how_to_install}"
                continue
            for target in _targets(name, component, host, options) if options else ():
                items = [{name: {"components": target, **values}} for values in options]
                ways = tuple(Alternative(item, ()) for item in (None, *items))
                slots.append(Slot(ways, frozenset({component.name})))
    return Space(document, tuple(slots), host, purpose, free_order=True, lacking=lacking)


def _candidates(
    host: Host, name: str, component: ComponentFacts, device: Device, machine: Machine
) -> list[Mapping[str, Any]]:
    """The options with which a step may make a component faster."""
    description = host.describe(name)
    if description.candidates is None or device not in (description.targets or DEVICES):
        return []
    answer = host.ask(name, "candidates", description.candidates, component, device, machine)
    if not isinstance(answer, list | tuple) or not all(isinstance(a, Mapping) for a in answer):
        raise host.broken(name, f"candidates gave {shown(answer)}, not mappings of options")
    return list(answer)


def _targets(
    name: str, component: ComponentFacts, host: Host, options: Sequence[Any]
) -> Iterator[list[str]]:
    """What a step works on: a component; or, if it only compiles, each of its entry points."""
    description = host.describe(name)
    try:
        first = description.options.model_validate(options[0]) if options else None
        changes = host.effects(name, first, "cpu").changes if first else frozenset()
    except (PluginError, ValueError):
        changes = frozenset()  # the planner says what is wrong with them
    if changes == {"compiled"}:
        yield from ([entry] for entry in component.calls)
    else:
        yield [component.name]


def _meet(one: frozenset[str], other: frozenset[str]) -> bool:
    return any(overlap(a, b) for a in one for b in other)
