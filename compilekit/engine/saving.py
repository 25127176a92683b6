"""`save_pretrained` after a run: it writes a folder that stock diffusers loads right, or raises."""

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
    """Make saving raise if the folder would load wrong.

    reasons: components that a step itself declared unfit to save, and why.
    Returns every component that can no longer be saved, with the reason.
    """
    unfit: dict[str, str] = {}
    for name, module in model.modules.items():
        reason = _renamed(steps, name) or reasons.get(name)
        if reason is None:
            continue
        unfit[name] = reason
        why = (
            f"{name} cannot be saved: diffusers would load it wrong, because {reason}. Save before "
            "you apply the recipe, and apply it again after loading; or leave the step out"
        )
        refuse(module, why)
        if model.is_pipeline:
            refuse(model.subject, why)
    return unfit


def _renamed(steps: Sequence[PlannedStep], component: str) -> str | None:
    """The step that changed the names or the meaning of a component's weights."""
    culprit: str | None = None
    for step in steps:
        if any(overlap(target, component) for target in step.components):
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
    """Replaces `save_pretrained`. It is a class, so that its owner can be pickled."""

    why: str

    def __call__(self, *_: object, **__: object) -> NoReturn:
        """Say why saving would write a wrong folder."""
        raise SaveError(self.why)
