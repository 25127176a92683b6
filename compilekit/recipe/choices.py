"""`choices:` in a recipe: the steps and options of which `tune` takes the fastest.

steps:
  - choices:                                     # one of these steps, or none
    - torch_compile: {components: [unet], regions: auto}
    - torch_compile: {components: [unet], weights: {choices: [shared, packed]}}
    - null
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from compilekit.errors import Problem, RecipeError
from compilekit.recipe.messages import shown
from compilekit.recipe.nodes import KeyPath, Place, dotted
from compilekit.recipe.source import Document

KEY = "choices"
MOST = 500
"""More alternatives than this in one step are a mistake."""

ONLY_TUNE = "has choices, of which `compilekit tune` takes the fastest; here, write one of them"

Picks = dict[KeyPath, int]


@dataclass(frozen=True)
class Alternative:
    """One way to write a step of the recipe; `item` is None where the step is left out.

    at: where the recipe writes it. picks: which choice of each option was taken.
    """

    item: Any
    at: KeyPath
    picks: Picks = field(default_factory=dict)


def has_choices(value: Any) -> bool:
    """Whether a value is a mapping of the one key `choices`."""
    return isinstance(value, dict) and list(value) == [KEY]


def alternatives(document: Document) -> list[list[Alternative]]:
    """For each step that a document writes, the ways to write it."""
    steps = document.data.get("steps")
    items = steps if isinstance(steps, list) else []
    return [_ways(document, item, ("steps", index)) for index, item in enumerate(items)]


def chosen(document: Document, taken: list[Alternative]) -> Document:
    """The document with these steps; each keeps the place where it was written."""
    places = {path: place for path, place in document.places.items() if path[:1] != ("steps",)}
    if ("steps",) in document.places:
        places["steps",] = document.places["steps",]
    kept = [way for way in taken if way.item is not None]
    for index, way in enumerate(kept):
        places |= {("steps", index, *path): place for path, place in _places(document, way)}
    return replace(
        document, data={**document.data, "steps": [way.item for way in kept]}, places=places
    )


def _ways(document: Document, item: Any, at: KeyPath) -> list[Alternative]:
    if not has_choices(item):
        return _few(document, list(_option_ways(document, item, at)), at)
    inner = [
        way
        for index, choice in enumerate(_listed(document, item[KEY], (*at, KEY)))
        for way in (
            [Alternative(None, (*at, KEY, index))]
            if choice is None
            else _option_ways(document, choice, (*at, KEY, index))
        )
    ]
    return _few(document, inner, at)


def _option_ways(document: Document, item: Any, at: KeyPath) -> Iterator[Alternative]:
    """The ways to write one step: every combination of the choices of its options."""
    body = next(iter(item.values())) if isinstance(item, dict) and len(item) == 1 else None
    if not isinstance(body, dict):
        yield Alternative(item, at)
        return
    name = next(iter(item))
    lists = {
        key: _listed(document, value[KEY], (*at, name, key, KEY))
        for key, value in body.items()
        if has_choices(value)
    }
    counts = [range(len(values)) for values in lists.values()]
    for picked in itertools.islice(itertools.product(*counts), MOST + 1):
        indices = dict(zip(lists, picked, strict=True))
        values = {key: lists[key][index] for key, index in indices.items()}
        picks: Picks = {(name, key): index for key, index in indices.items()}
        yield Alternative({name: {**body, **values}}, at, picks)


def _listed(document: Document, values: Any, at: KeyPath) -> list[Any]:
    if isinstance(values, list) and values:
        return _few(document, values, at)
    message = f"{shown(values)} is no list of choices: write at least one"
    raise RecipeError([Problem(document.locate(at), dotted(at), message)])


def _few(document: Document, values: list[Any], at: KeyPath) -> list[Any]:
    if len(values) <= MOST:
        return values
    message = f"more than {MOST} choices: split the step, or leave some out"
    raise RecipeError([Problem(document.locate(at), dotted(at), message)])


def _places(document: Document, way: Alternative) -> Iterator[tuple[KeyPath, Place]]:
    """Where the parts of a way stand, by their paths in the step as it is taken."""
    for path, place in document.places.items():
        if path[: len(way.at)] != way.at:
            continue
        inner = path[len(way.at) :]
        index = way.picks.get(inner[:2])
        if index is None or len(inner) == 2:  # noqa: PLR2004 - the name and the option
            yield inner, place
        elif inner[2:4] == (KEY, index):
            yield inner[:2] + inner[4:], place


def refusals(document: Document, item: Any, at: KeyPath) -> list[Problem]:
    """A problem for each choice in a step, for whoever takes none."""
    found: list[KeyPath] = []
    if has_choices(item):
        found = [(*at, KEY)]
    elif isinstance(item, Mapping) and len(item) == 1:
        name, body = next(iter(item.items()))
        options = body.items() if isinstance(body, dict) else ()
        found = [(*at, name, key) for key, value in options if has_choices(value)]
    return [Problem(document.locate(path, key=True), dotted(path), ONLY_TUNE) for path in found]
