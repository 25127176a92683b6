"""A document checked against the schema: every problem, and whatever could be read all the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from compilekit.base.texts import printable
from compilekit.base.words import DEVICES, Device
from compilekit.errors import Problem
from compilekit.recipe.choices import refusals
from compilekit.recipe.messages import shown, validated
from compilekit.recipe.nodes import KeyPath, dotted
from compilekit.recipe.parts import RESERVED, StepEntry, components_in
from compilekit.recipe.schema import RecipeData

if TYPE_CHECKING:
    from compilekit.recipe.source import Document


R = TypeVar("R", bound=RecipeData)


@dataclass(frozen=True)
class Draft(Generic[R]):
    """What could be read of a document; `recipe` only where nothing is wrong."""

    document: Document
    device: Device | None
    steps: list[StepEntry]
    recipe: R | None


def draft_of(document: Document, model: type[R]) -> tuple[Draft[R], list[Problem]]:
    """Check a document; steps that make sense are kept, so that a plan can check them too."""
    data = {"name": _name_of(document.file), **document.data}
    entries: list[StepEntry] = []
    problems: list[Problem] = []
    if isinstance(data.get("steps"), list):
        entries, problems = read_steps(document, data.pop("steps"))
    recipe, others = validated(
        model, data, prefix_path=(), prefix_key="", locate=document.locate, known=("extends",)
    )
    problems = sorted([*problems, *others])
    whole = None if problems or recipe is None else recipe.placed(document, entries)
    target = data.get("target")
    named = target.get("device") if isinstance(target, dict) else None
    device = next((device for device in DEVICES if device == named), None)
    return Draft(document, device, entries, whole), problems


def _name_of(file: str) -> str:
    """The name of a recipe that has none: its file's, as far as it is a name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", PurePath(file).stem).strip(".-")[:100] or "recipe"


def read_steps(document: Document, items: list[Any]) -> tuple[list[StepEntry], list[Problem]]:
    """The steps that make sense, and what is wrong with the others."""
    entries, problems = [], []
    for index, item in enumerate(items):
        entry, faults = _Step(document, index).read(item)
        problems += faults
        if entry is not None:
            entries.append(entry)
    return entries, problems


def _no_components(body: Mapping[str, Any]) -> str:
    """Why `components:` can name nothing; empty if it may."""
    named = body.get("components", "")
    if named in ([], None):
        return "names no component: remove the key, or name one"
    if not isinstance(named, str | list):
        return f"{shown(named)} is not a component's name, or a list of them"
    return ""


@dataclass(frozen=True)
class _Step:
    document: Document
    index: int

    def read(self, item: Any) -> tuple[StepEntry | None, list[Problem]]:
        path: KeyPath = ("steps", self.index)
        if problems := refusals(self.document, item, path):
            return None, problems
        if isinstance(item, str) and item:
            return self.entry(item, {})
        if isinstance(item, dict) and len(item) == 1 and "" not in item:
            name, options = next(iter(item.items()))
            if options is None or isinstance(options, dict):
                return self.entry(name, options or {})
            return self.problem((*path, name), f"{shown(options)} is not a mapping of options")
        if isinstance(item, dict) and len(item) > 1:
            names = printable(", ".join(item))
            message = f"a step has one key, its name, and this one has {len(item)}: {names}"
            return self.problem(path, f"{message}. Indent the options under the name")
        return self.problem(path, f"{shown(item)} is not a step: write its name")

    def problem(self, path: KeyPath, message: str) -> tuple[None, list[Problem]]:
        return None, [Problem(self.document.locate(path), dotted(path), message)]

    def entry(self, name: str, body: Mapping[str, Any]) -> tuple[StepEntry | None, list[Problem]]:
        reserved = {key: body[key] for key in RESERVED if key in body}
        options = {key: value for key, value in body.items() if key not in RESERVED}
        if fault := _no_components(body):
            return self.problem(("steps", self.index, name, "components"), fault)
        entry, problems = self.validated(name, reserved, options)
        if entry is None:
            entry = self.salvaged(name, reserved, options)
        return entry, problems

    def validated(
        self, name: str, reserved: Mapping[str, Any], options: Mapping[str, Any]
    ) -> tuple[StepEntry | None, list[Problem]]:
        data = {**reserved, "plugin": name, "index": self.index, "options": options}
        single = isinstance(data.get("components"), str)
        if single:
            data["components"] = [data["components"]]
        path = ("steps", self.index, name)
        entry, problems = validated(
            StepEntry,
            data,
            prefix_path=path,
            prefix_key=dotted(path),
            locate=self.document.locate,
        )
        if single:  # the recipe has no such index
            problems = [
                replace(p, key=re.sub(r"\.components\[0\]\Z", ".components", p.key))
                for p in problems
            ]
        return entry, problems

    def salvaged(
        self, name: str, reserved: Mapping[str, Any], options: Mapping[str, Any]
    ) -> StepEntry | None:
        """The step without the keys at fault, so that its options and order are checked too."""
        good: dict[str, Any] = {}
        if "components" in reserved:
            good["components"] = components_in(reserved["components"])
            if not good["components"]:
                return None
        for key in reserved.keys() - {"components"}:
            more = {**good, key: reserved[key]}
            if self.validated(name, more, options)[0] is not None:
                good = more
        return self.validated(name, good, options)[0]
