"""Steps that export the whole pipeline: where they may be in a recipe, and their answers.

Light: no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compilekit.base.words import ALL_COMPONENTS
from compilekit.plugin.answers import shown
from compilekit.plugin.host import Host
from compilekit.plugin.steps import PlannedStep, Whole

Row = tuple[str, str, str, str]


def whole_of(steps: Sequence[PlannedStep]) -> PlannedStep | None:
    """The step that exports the whole pipeline, if there is one."""
    return next((step for step in steps if step.description.whole is not None), None)


def misplaced(
    steps: Sequence[PlannedStep], *, has_shapes: bool
) -> Iterator[tuple[PlannedStep, str]]:
    """The steps that cannot be in a build with one that exports the whole pipeline, and why."""
    whole = whole_of(steps)
    if whole is None:
        return
    if whole.components != (ALL_COMPONENTS,):
        yield whole, "it exports the whole pipeline: leave `components` out"
    uses_shapes = whole.description.whole is not None and whole.description.whole.shapes
    if has_shapes and not uses_shapes:
        yield whole, "its sizes are options of the step: leave `shapes:` out"
    for step in steps[steps.index(whole) + 1 :]:
        yield step, f"{whole.key} exports the whole pipeline, so nothing can come after it"
    for step in steps[: steps.index(whole)]:
        if {"runtime", "compiled"} & step.effects.changes:
            lost = "which loses how this process runs it: leave one of the two steps out"
            yield step, f"{whole.key} exports the whole pipeline, {lost}"


def fingerprint(host: Host, name: str) -> dict[str, str]:
    """The step's own fingerprint of this machine."""
    return _texts(
        host, name, "fingerprint", host.ask(name, "fingerprint", _whole(host, name).fingerprint)
    )


def missing(host: Host, name: str) -> str:
    """Why bundles of a step cannot be loaded in this process; empty if they can."""
    answer = host.ask(name, "missing", _whole(host, name).missing)
    if not isinstance(answer, str):
        raise host.broken(name, f"missing gave {shown(answer)}, not a sentence")
    return answer


def ingredients(host: Host, step: PlannedStep) -> dict[str, str] | None:
    """Further inputs of the step's result; None if they are not known."""
    ask = _whole(host, step.name).ingredients
    answer = {} if ask is None else host.ask(step.name, "ingredients", ask, step.options)
    return None if answer is None else _texts(host, step.name, "ingredients", answer)


def lines_about(host: Host, folder: Path) -> list[str]:
    """Lines about a folder that a step compiled; empty if no step did."""
    lines: list[str] = []
    for name, description in host.descriptions.items():
        if description.whole is not None and description.whole.inspect is not None:
            lines += map(str, host.ask(name, "inspect", description.whole.inspect, folder))
    return lines


def doctor_rows(host: Host) -> list[Row]:
    """The steps' rows for `doctor`."""
    rows: list[Row] = []
    for name, description in host.descriptions.items():
        if description.whole is not None and description.whole.doctor is not None:
            for part, state, has, advice in host.ask(name, "doctor", description.whole.doctor):
                rows.append((f"{name}: {part}", state, has, advice))
    return rows


def _whole(host: Host, name: str) -> Whole:
    whole = host.describe(name).whole
    if whole is None:
        raise host.broken(name, "it exports no whole pipelines")
    return whole


def _texts(host: Host, name: str, function: str, answer: Any) -> dict[str, str]:
    if not isinstance(answer, Mapping) or not all(
        isinstance(text, str) for item in answer.items() for text in item
    ):
        raise host.broken(name, f"{function} gave {shown(answer)}, not texts by name")
    return dict(answer)
