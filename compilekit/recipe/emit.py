"""Plain data as YAML text, in the flow style that a recipe's steps are written in."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from compilekit.base.texts import printable
from compilekit.errors import UsageError

if TYPE_CHECKING:
    from compilekit.recipe.parts import StepEntry
    from compilekit.recipe.schema import RecipeData

_BARE = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*( [A-Za-z0-9_./-]+)*")
# Other readers, and people, may take these for something else than strings.
_NOT_BARE = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
_ESCAPES = str.maketrans({'"': '\\"', "\\": "\\\\", "\r": "\\x0d"})


def flow(value: Any) -> str:
    """A value on one line.

    >>> flow({"components": ["unet", "vae.decode"], "mode": "max-autotune"})
    '{components: [unet, vae.decode], mode: max-autotune}'
    """
    if isinstance(value, str):
        return string(value)
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(flow, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_key(key)}: {flow(item)}' for key, item in value.items())}}}"
    raise UsageError(
        f"a recipe holds plain values (numbers, strings, lists, mappings), not {value!r}"
    )


def string(text: str) -> str:
    """A string, in quotes where it would be read as something else without."""
    if _BARE.fullmatch(text) and text.lower() not in _NOT_BARE:
        return text
    return f'"{printable(text.translate(_ESCAPES))}"'


def step_data(step: StepEntry) -> str | dict[str, Any]:
    """A step as a recipe writes it: its name, or its name with what it sets."""
    body: dict[str, Any] = {}
    if step.components:
        body["components"] = list(step.components)
    body |= step.options
    if step.allow_no_match:
        body["allow_no_match"] = True
    if step.budget is not None:
        body["budget"] = step.budget
    return {step.plugin: body} if body else step.plugin


def recipe_to_yaml(
    recipe: RecipeData, title: Iterable[str] = (), comments: Mapping[int, str] | None = None
) -> str:
    """A whole recipe: sections on lines of their own, what is in them in flow style.

    title: lines of comment above it all. comments: a line above a step, by its place.
    """
    data = recipe.model_dump(exclude_defaults=True, exclude={"steps"})
    lines = [f"# {printable(line)}".rstrip() for line in title]
    lines += [f"compilekit: {recipe.compilekit}", f"name: {flow(recipe.name)}"]
    if recipe.steps:
        data["steps"] = [step_data(step) for step in recipe.steps]
    for key in ("description", "target", "model", "sample", "steps", "verify", "shapes", "tuned"):
        if key not in data:
            continue
        value = data[key]
        if key in ("model", "sample", "tuned") and value:
            lines += [f"{key}:", *(f"  {_key(inner)}: {flow(value[inner])}" for inner in value)]
        elif key in ("steps", "shapes"):
            lines.append(f"{key}:")
            for index, item in enumerate(value):
                if key == "steps" and (comment := (comments or {}).get(index)):
                    lines.append(f"  # {printable(comment)}")
                lines.append(f"  - {_item(item)}")
        else:
            lines.append(f"{key}: {flow(value)}")
    return "\n".join([*lines, ""])


def _item(item: Any) -> str:
    text = flow(item)
    return text[1:-1] if isinstance(item, Mapping) and len(item) == 1 else text


def _key(key: Any) -> str:
    if isinstance(key, str):
        return string(key)
    raise UsageError(f"a key of a recipe is a string, not {key!r}")


def _number(value: float) -> str:
    if math.isfinite(value):
        return float.__repr__(value)
    return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
