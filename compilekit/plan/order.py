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
    broken: dict[Violation, None] = {}
    for position, step in enumerate(steps):
        before, after = steps[:position], steps[position + 1 :]
        for component in step.components:
            for violation in _check(step, component, before, after):
                broken[violation] = None
    return list(broken)


def _check(
    step: PlannedStep,
    component: str,
    before: Sequence[PlannedStep],
    after: Sequence[PlannedStep],
) -> list[Violation]:
    earlier = _touching(before, component)
    later = _touching(after, component)
    properties = _properties(earlier)
    wants = step.effects
    return [
        *_results_first(step, before),
        *_not_after_compiled(step, component, earlier, properties),
        *(_need(step, p, component, earlier, later) for p in sorted(wants.needs - properties)),
        *(_conflict(step, p, component, earlier) for p in sorted(wants.conflicts & properties)),
        *(
            _need_later(step, p, component, earlier)
            for p in sorted(wants.needs_later)
            if not any(p in gives(other.effects) for other in later)
        ),
    ]


def _touching(steps: Sequence[PlannedStep], component: str) -> list[PlannedStep]:
    return [s for s in steps if any(overlap(target, component) for target in s.components)]


def _properties(earlier: Sequence[PlannedStep]) -> frozenset[str]:
    properties = FRESH
    for step in earlier:
        properties = (properties - step.effects.removes) | gives(step.effects)
    return properties


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
    step: PlannedStep, component: str, earlier: Sequence[PlannedStep], properties: frozenset[str]
) -> list[Violation]:
    baked = sorted(step.effects.changes & BAKED)
    if not baked or "compiled" not in properties:
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
    property_: str,
    component: str,
    earlier: Sequence[PlannedStep],
    later: Sequence[PlannedStep],
) -> Violation:
    on = _on(component)
    for other in reversed(earlier):
        if property_ in other.effects.removes:
            return Violation(
                step,
                f"{step.key} must come before {other.key} on {on}: "
                f'it needs "{property_}", which {other.key} removes',
            )
    for other in later:
        if property_ in gives(other.effects):
            return Violation(
                step,
                f"{step.key} must come after {other.key} on {on}: "
                f'it needs "{property_}", which {other.key} gives',
            )
    message = f'{step.key} needs "{property_}" on {on}, and no step of this recipe gives it'
    return Violation(step, message, misplaced=False, lacks=property_)


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
    step: PlannedStep, property_: str, component: str, earlier: Sequence[PlannedStep]
) -> Violation:
    on = _on(component)
    givers = [s for s in earlier if property_ in gives(s.effects)]
    if givers:
        other = givers[-1].key
        message = f'{step.key} must come before {other} on {on}: it needs "{property_}" after it'
        return Violation(step, message)
    message = f'{step.key} needs a later step that makes {on} "{property_}", and there is none'
    return Violation(step, message, misplaced=False, lacks=property_)


def _on(component: str) -> str:
    return "the pipeline" if component == ALL_COMPONENTS else component


def corrected(steps: Sequence[PlannedStep]) -> list[PlannedStep] | None:
    """The same steps in an order that works, close to the written one; None if there is none."""
    count = len(steps)
    after = {
        i: {j for j in range(count) if i != j and _must_precede(steps[i], steps[j])}
        for i in range(count)
    }
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
    earlier, later = first.effects, second.effects
    if "results" in earlier.changes and "results" not in later.changes:
        return True
    if not any(overlap(a, b) for a in first.components for b in second.components):
        return False
    if earlier.changes & BAKED and "compiled" in gives(later) - gives(earlier):
        return True
    return bool(
        (earlier.needs & later.removes) - gives(later) - (later.needs & earlier.removes)
        or (gives(earlier) & later.needs) - FRESH
        or (earlier.conflicts & gives(later)) - gives(earlier)
        or earlier.needs_later & gives(later)
    )
