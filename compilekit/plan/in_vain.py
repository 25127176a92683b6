"""Steps that undo or repeat an earlier one: allowed, and most likely not meant.

No step is known by name: it follows from what the steps change, give and remove, and from the
options that a recipe sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from compilekit.base.words import ALL_COMPONENTS, Change
from compilekit.plan.order import gives, overlap
from compilekit.plugin.steps import PlannedStep

ADDS_UP: frozenset[Change] = frozenset({"weights", "structure"})
"""Changes that come on top of earlier ones of their kind; of the others, only the last is left."""


def in_vain(steps: Sequence[PlannedStep]) -> list[str]:
    """A sentence for each step that undoes or repeats an earlier one."""
    # A dict, since one step may do so on several components.
    sentences: dict[str, None] = {}
    for position, step in enumerate(steps):
        for target in step.components:
            for reason in _reasons(step, target, steps[:position]):
                sentences[f"{step.key} {reason}; leave one of them out"] = None
    return list(sentences)


def _reasons(step: PlannedStep, target: str, before: Sequence[PlannedStep]) -> Iterator[str]:
    needed = step.effects.needs
    for earlier in reversed(before):
        component = next((c for c in earlier.components if overlap(c, target)), None)
        if component is None:
            continue
        # A step on a part of what an earlier one worked on is another choice for that part.
        is_all = _within(component, target)
        where = f"{earlier.key} on {component if is_all else target}"
        where = where.replace(ALL_COMPONENTS, "the pipeline")
        lost = sorted((gives(earlier.effects) & step.effects.removes) - needed)
        if earlier.name == step.name:
            if _set(earlier) == _set(step):
                yield f"repeats {where}"
            elif is_all and (keys := _set_otherwise(earlier, step)):
                yield f"undoes {where}: both set {' and '.join(keys)}"
            return  # what it undid itself was told there
        if is_all and lost:
            yield f'undoes {where}: it removes "{lost[0]}"'
        needed |= earlier.effects.needs


def _within(component: str, other: str) -> bool:
    return other == ALL_COMPONENTS or f"{component}.".startswith(f"{other}.")


def _set_otherwise(earlier: PlannedStep, step: PlannedStep) -> list[str]:
    """The options that two steps set to different values, and that only one of them can have."""
    if step.effects.changes & ADDS_UP:
        return []
    before, now = _set(earlier), _set(step)
    return [key for key in now if key in before and before[key] != now[key]]


def _set(step: PlannedStep) -> dict[str, Any]:
    return step.options.model_dump(exclude_unset=True)
