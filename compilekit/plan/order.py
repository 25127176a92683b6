"""The order of steps: checked and explained, never changed.

No step is known by name. The order follows from what each step changes, needs, gives, removes and
conflicts with.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from compilekit.base.words import ALL_COMPONENTS, Change
from compilekit.plugin.steps import FRESH, Effects, PlannedStep

BAKED: frozenset[Change] = frozenset({"weights", "structure", "layout", "dtype"})
"""Changes that compiled code does not see, so they must come before compiling."""


@dataclass(frozen=True)
class Violation:
    """A step in the wrong place, or one whose needs no step satisfies.

    misplaced: whether another order could help.
    lacks: the property that no step of the recipe gives.
    """

    step: PlannedStep
    message: str
    misplaced: bool = True
    lacks: str = ""


def overlap(left: str, right: str) -> bool:
    """Whether two names concern the same component: `vae` and `vae.decode` do.

    >>> overlap("vae", "vae.decode"), overlap("vae.encode", "vae.decode"), overlap("*", "unet")
    (True, False, True)
    """
    if ALL_COMPONENTS in (left, right):
        return True
    return f"{left}.".startswith(f"{right}.") or f"{right}.".startswith(f"{left}.")


def gives(effects: Effects) -> frozenset[str]:
    """The properties that a step gives; compiling gives `compiled`."""
    return effects.gives | (effects.changes & {"compiled"})


def violations(steps: Sequence[PlannedStep]) -> list[Violation]:
    """Everything that is wrong with the order of the steps."""
    # A dict, since one step may break the same rule on several components.
    found: dict[Violation, None] = {}
    for position, step in enumerate(steps):
        before, after = steps[:position], steps[position + 1 :]
        for component in step.components:
            for violation in _check(step, component, before, after):
                found[violation] = None
    return list(found)


def _check(
    step: PlannedStep,
    component: str,
    before: Sequence[PlannedStep],
    after: Sequence[PlannedStep],
) -> list[Violation]:
    earlier = _touching(before, component)
    later = _touching(after, component)
    held = _properties(earlier)
    wants = step.effects
    return [
        *_results_first(step, before),
        *_not_after_compiled(step, component, earlier, held),
        *(_need(step, p, component, earlier, later) for p in sorted(wants.needs - held)),
        *(_conflict(step, p, component, earlier) for p in sorted(wants.conflicts & held)),
        *(
            _need_later(step, p, component, earlier)
            for p in sorted(wants.needs_later)
            if not any(p in gives(other.effects) for other in later)
        ),
    ]


def _touching(steps: Sequence[PlannedStep], component: str) -> list[PlannedStep]:
    return [s for s in steps if any(overlap(own, component) for own in s.components)]


def _properties(earlier: Sequence[PlannedStep]) -> frozenset[str]:
    held = FRESH
    for step in earlier:
        held = (held - step.effects.removes) | gives(step.effects)
    return held


def _results_first(step: PlannedStep, before: Sequence[PlannedStep]) -> list[Violation]:
    if "results" not in step.effects.changes:
        return []
    late = next((other for other in before if "results" not in other.effects.changes), None)
    if late is None:
        return []
    return [
        Violation(
            step,
            f"{step.key} must come before {late.key}: it changes the results, and the "
            "reference is recorded after the steps that do",
        )
    ]


def _not_after_compiled(
    step: PlannedStep, component: str, earlier: Sequence[PlannedStep], held: frozenset[str]
) -> list[Violation]:
    baked = sorted(step.effects.changes & BAKED)
    if not baked or "compiled" not in held:
        return []
    compiler = next(s for s in earlier if "compiled" in gives(s.effects))
    return [
        Violation(
            step,
            f"{step.key} must come before {compiler.key} on {_on(component)}: it changes "
            f"{' and '.join(baked)}, which compiled code does not see",
        )
    ]


def _need(
    step: PlannedStep,
    wanted: str,
    component: str,
    earlier: Sequence[PlannedStep],
    later: Sequence[PlannedStep],
) -> Violation:
    on = _on(component)
    removers = [s for s in earlier if wanted in s.effects.removes]
    if removers:
        other = removers[-1].key
        return Violation(
            step,
            f"{step.key} must come before {other} on {on}: "
            f'it needs "{wanted}", which {other} removes',
        )
    givers = [s for s in later if wanted in gives(s.effects)]
    if givers:
        other = givers[0].key
        return Violation(
            step,
            f'{step.key} must come after {other} on {on}: it needs "{wanted}", which {other} gives',
        )
    message = f'{step.key} needs "{wanted}" on {on}, and no step of this recipe gives it'
    return Violation(step, message, misplaced=False, lacks=wanted)


def _conflict(
    step: PlannedStep, property_: str, component: str, earlier: Sequence[PlannedStep]
) -> Violation:
    givers = [s for s in earlier if property_ in gives(s.effects)]
    on = _on(component)
    if not givers:
        message = f'{step.key} conflicts with "{property_}", which {on} has from the start'
        return Violation(step, message, misplaced=False)
    other = givers[-1]
    if property_ in gives(step.effects):
        message = (
            f'{step.key}: {on} is "{property_}" already, by {other.key}; leave one of them out'
        )
        return Violation(step, message, misplaced=False)
    return Violation(
        step,
        f"{step.key} must come before {other.key} on {on}: "
        f'it conflicts with "{property_}", which {other.key} gives',
    )


def _need_later(
    step: PlannedStep, wanted: str, component: str, earlier: Sequence[PlannedStep]
) -> Violation:
    on = _on(component)
    givers = [s for s in earlier if wanted in gives(s.effects)]
    if givers:
        other = givers[-1].key
        message = f'{step.key} must come before {other} on {on}: it needs "{wanted}" after it'
        return Violation(step, message)
    message = f'{step.key} needs a later step that makes {on} "{wanted}", and there is none'
    return Violation(step, message, misplaced=False, lacks=wanted)


def _on(component: str) -> str:
    return "the pipeline" if component == ALL_COMPONENTS else component


def corrected(steps: Sequence[PlannedStep]) -> list[PlannedStep] | None:
    """The same steps in an order that works, close to the written one; None if there is none."""
    count = len(steps)
    after: dict[int, set[int]] = {i: set() for i in range(count)}
    for i in range(count):
        for j in range(count):
            if i != j and _must_precede(steps[i], steps[j]):
                after[i].add(j)
    waiting = {j: sum(j in after[i] for i in range(count)) for j in range(count)}
    ready = [i for i in range(count) if not waiting[i]]
    order: list[PlannedStep] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(steps[i])
        for j in after[i]:
            waiting[j] -= 1
            if not waiting[j]:
                heapq.heappush(ready, j)
    if len(order) < count or any(violation.misplaced for violation in violations(order)):
        return None
    return order


def _must_precede(first: PlannedStep, second: PlannedStep) -> bool:
    """Whether `first` works only before `second`."""
    one, two = first.effects, second.effects
    if "results" in one.changes and "results" not in two.changes:
        return True
    if not any(overlap(a, b) for a in first.components for b in second.components):
        return False
    if one.changes & BAKED and "compiled" in gives(two) - gives(one):
        return True
    if (one.needs & two.removes) - gives(two) - (two.needs & one.removes):
        return True
    if (gives(one) & two.needs) - FRESH:
        return True
    if (one.conflicts & gives(two)) - gives(one):
        return True
    return bool(one.needs_later & gives(two))
