"""`save_pretrained` after a run: it writes what stock diffusers loads alike, or raises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from compilekit.errors import SaveError
from compilekit.plan.order import overlap
from compilekit.plugin.steps import FRESH, PlannedStep
from compilekit.subject.model import Model

STOCK = "stock_state_dict"
SAVERS = ("save_pretrained", "push_to_hub")

assert STOCK in FRESH  # noqa: S101 - the planner and the guard must mean the same word


def guard_saving(
    model: Model, steps: Sequence[PlannedStep], reasons: Mapping[str, str]
) -> dict[str, str]:
    """Make saving raise where a folder would not load alike.

    reasons: components that a step itself called unfit to save, and why.
    Gives back every component that can no longer be saved, with the reason.
    """
    unfit: dict[str, str] = {}
    for name, module in model.modules.items():
        reason = _renamed(steps, name) or reasons.get(name)
        if reason is None:
            continue
        unfit[name] = reason
        why = (
            f"{name} cannot be saved so that diffusers would load it alike: {reason}. Save before "
            "you apply the recipe, and apply it again after loading; or leave the step out"
        )
        refuse(module, why)
        if model.is_pipeline:
            refuse(model.subject, why)
    return unfit


def _renamed(steps: Sequence[PlannedStep], component: str) -> str | None:
    """The step after which a component's weights have other names or another meaning."""
    culprit: str | None = None
    for step in steps:
        if any(overlap(own, component) for own in step.components):
            if STOCK in step.effects.removes:
                culprit = f"{step.key} changed its weights' names or meaning"
            if STOCK in step.effects.gives:
                culprit = None
    return culprit


def refuse(owner: Any, why: str) -> None:
    """Make saving raise, with the reason."""
    for name in SAVERS:
        if callable(getattr(owner, name, None)):
            # An instance attribute: the class, and other instances of it, still save.
            setattr(owner, name, Refusal(why))


@dataclass(frozen=True)
class Refusal:
    """Stands in for `save_pretrained`. A class of its own, so that owners can be pickled."""

    why: str

    def __call__(self, *_: object, **__: object) -> NoReturn:
        """Say why saving would go wrong."""
        raise SaveError(self.why)
