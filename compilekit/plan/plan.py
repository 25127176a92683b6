"""The plan: a recipe checked against the plugins' descriptions. Light: no torch.

All problems of a recipe are reported at once: those of the file, of the steps' options, of the
target, and of the order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compilekit.base.columns import aligned
from compilekit.base.machine import Machine
from compilekit.base.texts import printable
from compilekit.base.words import ALL_COMPONENTS, CHANGES, DEVICES, Device, Purpose
from compilekit.errors import Location, PluginError, Problem, RecipeError, UsageError
from compilekit.plan import whole
from compilekit.plan.advice import advice_on
from compilekit.plan.digest import digest_of
from compilekit.plan.in_vain import in_vain
from compilekit.plan.order import Violation, corrected, gives, violations
from compilekit.plugin.host import Host, given_host
from compilekit.plugin.steps import Effects, Options, PlannedStep, StepDescription
from compilekit.recipe import Draft, Recipe, StepEntry, check, read
from compilekit.recipe.messages import validated
from compilekit.recipe.nodes import dotted
from compilekit.recipe.parts import RESERVED


@dataclass(frozen=True, kw_only=True, repr=False)
class Plan:
    """A checked recipe, ready for a model. `print(plan)` shows it.

    advice: what will be slow on the machine that the plan is for, in sentences.

    >>> import compilekit as ck
    >>> ck.plan(ck.Recipe.from_steps("precision{dtype=bfloat16}")).device
    'cpu'
    """

    recipe: Recipe
    steps: tuple[PlannedStep, ...]
    purpose: Purpose = "apply"
    advice: tuple[str, ...] = ()

    @property
    def device(self) -> Device:
        """The target's kind of device."""
        return self.recipe.target.device

    @property
    def model_device(self) -> Device:
        """Where the model is while the steps run. A whole pipeline is exported from the CPU."""
        return "cpu" if self.whole is not None else self.device

    @property
    def whole(self) -> PlannedStep | None:
        """The step of a build that exports the whole pipeline, if there is one."""
        return whole.whole_of(self.steps) if self.purpose == "build" else None

    def to_dict(self) -> dict[str, Any]:
        """The canonical form: defaults filled in, without positions, comments and `tuned:`."""
        recipe = self.recipe.model_dump(mode="json", exclude={"steps", "tuned"})
        steps = [
            {
                step.name: {
                    "components": list(step.components),
                    "allow_no_match": step.allow_no_match,
                    "budget": step.budget,
                    **step.options.model_dump(mode="json"),
                }
            }
            for step in self.steps
        ]
        return {**recipe, "steps": steps}

    @property
    def warnings(self) -> list[str]:
        """What is allowed, and most likely not meant: no steps, or steps that undo each other."""
        if not self.steps:
            return ["the recipe has no steps, so it changes nothing"]
        return in_vain(self.steps)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form: equal for recipes that mean the same."""
        return digest_of(self.to_dict())

    def __repr__(self) -> str:
        return f"<Plan {self._title()}, for {self.purpose}>"

    def _title(self) -> str:
        count = len(self.steps)
        name = printable(self.recipe.name)
        return f"{name}: {count} step{'s' * (count != 1)} on {self.device}"

    def __str__(self) -> str:
        rows = [
            (
                str(step.index),
                step.name,
                ", ".join(step.components).replace(ALL_COMPONENTS, "the pipeline"),
                "changes " + ", ".join(c for c in CHANGES if c in step.effects.changes),
                ", ".join(f"{k}={_shown(v)}" for k, v in _set_options(step.options).items()),
            )
            for step in self.steps
        ]
        warnings = (f"warning: {warning}" for warning in self.warnings)
        advice = (f"advice: {printable(sentence)}" for sentence in self.advice)
        return "\n".join([self._title(), *aligned(rows, indent=2), *warnings, *advice])


def _set_options(options: Options) -> dict[str, Any]:
    return options.model_dump(mode="json", exclude_unset=True)


def _shown(value: object) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value))


def plan(
    recipe: Recipe | str | Path,
    *,
    host: Host | None = None,
    for_: Purpose = "apply",
    machine: Machine | None = None,
) -> Plan:
    """Check a recipe against the installed plugins, without loading torch or any weights.

    recipe: a `Recipe`, the path of one, or the name of one that comes with compilekit.
    for_: "apply" to run in this process, "build" to make a bundle.
    machine: the machine that it will run on, for advice; by default this one.

    Raises `RecipeError` with every problem that it finds.

    >>> import compilekit as ck
    >>> print(ck.plan(ck.Recipe.from_steps("channels_last{components=unet}")))
    steps: 1 step on cpu
      0  channels_last  unet  changes layout
    """
    if for_ not in ("apply", "build"):
        raise UsageError(f'for_="{for_}": say "apply" or "build"')
    draft, problems = _drafted(recipe)
    host = given_host(host)
    planner = _Planner(host, draft, for_)
    steps = planner.resolve()
    faults = [*problems, *planner.problems, *planner.order(steps), *planner.misplaced(steps)]
    if faults or draft.recipe is None:
        raise RecipeError(faults, planner.advice)
    advice = advice_on(draft.recipe, steps, host, for_, machine)
    return Plan(recipe=draft.recipe, steps=tuple(steps), purpose=for_, advice=tuple(advice))


def in_order(recipe: Recipe, *, host: Host, for_: Purpose) -> Recipe:
    """The recipe with its steps in an order that works; as it is, if none was found."""
    steps = _Planner(host, recipe.draft(), for_).resolve()
    right = corrected(steps) if len(steps) == len(recipe.steps) else None
    if right is None:
        return recipe
    entries = [recipe.steps[step.index] for step in right]
    moved = [entry.model_copy(update={"index": i}) for i, entry in enumerate(entries)]
    return recipe.model_copy(update={"steps": tuple(moved)})


def _drafted(recipe: Recipe | str | Path) -> tuple[Draft[Recipe], list[Problem]]:
    if isinstance(recipe, Recipe):
        return recipe.draft(), []
    return check(read(recipe))


class _Planner:
    """Turns a draft's entries into planned steps, and collects what is wrong with them."""

    def __init__(self, host: Host, draft: Draft[Recipe], purpose: Purpose) -> None:
        self.host = host
        self.draft = draft
        self.purpose = purpose
        self.device = draft.device
        self.problems: list[Problem] = []
        self.advice = ""

    def resolve(self) -> list[PlannedStep]:
        steps = (self._resolve(entry) for entry in self.draft.steps)
        return [step for step in steps if step is not None]

    def _resolve(self, entry: StepEntry) -> PlannedStep | None:
        try:
            description = self.host.describe(entry.plugin)
        except PluginError as error:
            self._add(entry, str(error))
            return None
        if self.device and description.targets and self.device not in description.targets:
            known = ", ".join(sorted(description.targets))
            self._add(entry, f'does not support the target "{self.device}", only {known}')
        if description.components == "required" and not entry.components:
            self._add(entry, "name the components to work on, for example `components: [unet]`")
        options = self._options(entry, description)
        # If the options are wrong, the defaults are used, so that the order is checked too.
        stand_in = options or _defaults(description)
        if stand_in is None:
            return None
        try:
            effects = self.host.effects(entry.plugin, stand_in, self.device or "cpu")
            if options:
                self._check(entry, description, options, effects)
        except PluginError as error:
            self._add(entry, str(error))
            return None
        return PlannedStep(
            index=entry.index,
            name=entry.plugin,
            components=entry.components or (ALL_COMPONENTS,),
            options=stand_in,
            effects=effects,
            description=description,
            allow_no_match=entry.allow_no_match,
            budget=entry.budget or description.budget,
            location=self._where(entry),
        )

    def _options(self, entry: StepEntry, description: StepDescription) -> Options | None:
        options, problems = validated(
            description.options,
            entry.options,
            prefix_path=("steps", entry.index, entry.plugin),
            prefix_key=_key(entry),
            locate=self.draft.document.locate,
            known=RESERVED,
        )
        self.problems += problems
        return options

    def _check(
        self, entry: StepEntry, description: StepDescription, options: Options, effects: Effects
    ) -> None:
        for reason in self.host.objections(entry.plugin, options, self.device, self.purpose):
            self._add(entry, reason)
        exports = description.exports or "compiled" not in gives(effects)
        if self.purpose == "build" and not exports:
            self._add(entry, "compiles and cannot export: use it with apply, or leave it out")

    def order(self, steps: Sequence[PlannedStep]) -> list[Problem]:
        broken = violations(steps)
        if any(violation.misplaced for violation in broken):
            right = corrected(steps)
            if right is None:
                self.advice = "No order of these steps was found to work: leave one of them out."
            elif not violations(right):  # else it would suggest a recipe that is wrong too
                self.advice = f"The right order is: {', '.join(map(_brief, right))}."
        return [
            Problem(violation.step.location or Location(""), "", self._hinted(violation))
            for violation in broken
        ]

    def misplaced(self, steps: Sequence[PlannedStep]) -> list[Problem]:
        """Steps that do not fit a step that exports the whole pipeline."""
        if self.purpose != "build":
            return []
        recipe = self.draft.recipe
        found = whole.misplaced(steps, has_shapes=recipe is not None and bool(recipe.shapes))
        return [Problem(step.location or Location(""), step.key, why) for step, why in found]

    def _hinted(self, violation: Violation) -> str:
        """The message, with the steps that give the missing property."""
        names = sorted(self.host.descriptions) if violation.lacks else []
        givers = [name for name in names if self._can_give(name, violation.lacks)]
        hint = f". Steps that give it: {', '.join(givers)}" if givers else ""
        return f"{violation.message}{hint}"

    def _can_give(self, name: str, property_: str) -> bool:
        description = self.host.describe(name)
        options = _defaults(description)
        if options is None or (self.device and self.device not in (description.targets or DEVICES)):
            return False
        try:
            return property_ in gives(self.host.effects(name, options, self.device or "cpu"))
        except PluginError:
            return False

    def _where(self, entry: StepEntry) -> Location:
        return self.draft.document.locate(("steps", entry.index, entry.plugin), key=True)

    def _add(self, entry: StepEntry, message: str) -> None:
        self.problems.append(Problem(self._where(entry), _key(entry), printable(message)))


def _defaults(description: StepDescription) -> Options | None:
    try:
        return description.options()
    except ValidationError:
        return None


def _key(entry: StepEntry) -> str:
    return dotted(("steps", entry.index, entry.plugin))


def _brief(step: PlannedStep) -> str:
    return f"{step.name}({', '.join(step.components).replace(ALL_COMPONENTS, 'the pipeline')})"
