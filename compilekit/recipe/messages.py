"""pydantic's errors as problems of a recipe: where, in which key, and one short sentence.

The planner uses it for the options of steps, as the recipe's own schema does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from compilekit.base.texts import did_you_mean, printable
from compilekit.errors import Location, Problem
from compilekit.recipe.nodes import KeyPath, dotted
from compilekit.recipe.unions import known_keys, reported

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

M = TypeVar("M", bound=BaseModel)

_SHOWN = 60

_EXPECTED = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a string",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dataclass_type": "a mapping",
    "none_required": "null",
}
_LIMITS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
    "multiple_of": ("a multiple of", "multiple_of"),
}
_BOOLEANS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


class Locate(Protocol):
    """`Document.locate`, or anything like it."""

    def __call__(self, path: KeyPath, *, key: bool = False) -> Location: ...


def validated(
    model: type[M],
    data: Any,
    *,
    prefix_path: KeyPath,
    prefix_key: str,
    locate: Locate,
    known: Iterable[str] = (),
) -> tuple[M | None, list[Problem]]:
    """Check plain data against a model, strictly: `"5"` and `true` are no integers.

    Gives the model, or a problem for each value at fault.

    JSON's strict rules are those that suit YAML: a list is a tuple, an integer a number.
    `known` adds keys for "Did you mean" that the model does not have.
    """
    try:
        return model.model_validate_json(json.dumps(data), strict=True), []
    except ValidationError as error:
        reports = reported(error, data)
    problems = []
    for path, details in reports:
        kind = details[0]["type"]
        is_key = kind == "extra_forbidden" or details[0]["loc"][-1:] == ("[key]",)
        if kind == "extra_forbidden":
            keys = [*known_keys(model, path[:-1]), *(known if len(path) == 1 else ())]
            message = unknown_key(str(path[-1]), keys)
        else:
            message = _message(details)
        where = locate((*prefix_path, *path), key=is_key)
        problems.append(Problem(where, dotted(path, prefix_key), printable(message)))
    return None, problems


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The message for a key that nothing knows."""
    names = sorted(set(known) - {key})  # another branch of a union may have it
    hint = guess(key, names) or (f". Known keys: {', '.join(names)}" if names else "")
    return f"unknown key {shown(key)}{hint}"


def guess(word: str, choices: Iterable[str]) -> str:
    """` Did you mean "x"?` after a full stop, or nothing."""
    hint = did_you_mean(word, choices)
    return f".{hint}" if hint else ""


def either(words: Sequence[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def shown(value: Any) -> str:
    """A value as a message quotes it: short, and as YAML writes it."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, float) and not isfinite(value):
        return {"nan": ".nan", "inf": ".inf"}.get(str(value), "-.inf")
    if value is None or isinstance(value, bool | int | float | str):
        text = printable(json.dumps(value, ensure_ascii=False))
        end = '..."' if isinstance(value, str) else "..."
        return text if len(text) <= _SHOWN else text[: _SHOWN - len(end)] + end
    return f"a value of type {type(value).__name__}"


def _message(details: Sequence[ErrorDetails]) -> str:
    """Several errors are those of the branches of one union: they become one sentence."""
    phrases = list(dict.fromkeys(filter(None, map(_expected, details))))
    if not phrases:
        return _other(details[0])
    value = details[0]["input"]
    if value is None:
        return f"has no value; must be {either(phrases)}"
    return f"{shown(value)} is not {either(phrases)}{_hint(details, value)}"


def _expected(detail: ErrorDetails) -> str:
    if detail["type"] in ("literal_error", "enum"):
        choices = _choices(detail)
        return f"one of {', '.join(choices)}" if choices[1:] else "".join(choices)
    return _EXPECTED.get(detail["type"], "")


def _choices(detail: ErrorDetails) -> list[str]:
    """`'a', 'b' or 3`, as pydantic lists them, taken apart."""
    expected = detail.get("ctx", {}).get("expected", "")
    words = re.findall(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"|([^\s,]+)", expected)
    return [single or double or bare for single, double, bare in words if bare != "or"]


def _hint(details: Sequence[ErrorDetails], value: Any) -> str:
    """What the writer of the value most likely meant."""
    phrases = {_EXPECTED.get(detail["type"], "") for detail in details}
    choices = [c for d in details if d["type"] in ("literal_error", "enum") for c in _choices(d)]
    if isinstance(value, str):
        if "true or false" in phrases and value.lower() in _BOOLEANS:
            return f". YAML 1.2 reads it as a string: write {_BOOLEANS[value.lower()]}"
        number = r"[-+]?\d+" if "a number" not in phrases else r"[-+]?\d+(\.\d*)?"
        is_number = phrases & {"an integer", "a number"} and re.fullmatch(number, value, re.ASCII)
        if is_number or ("true or false" in phrases and value.lower() in ("true", "false")):
            return ". Write it without quotes"
        return guess(value, choices)
    if isinstance(value, bool | int | float) and "a string" in phrases:
        return ". Put it in quotes"
    return ""


def _other(detail: ErrorDetails) -> str:
    kind, value, context = detail["type"], shown(detail["input"]), detail.get("ctx", {})
    if kind == "missing":
        return "required, and missing"
    if kind in _LIMITS:
        words, limit = _LIMITS[kind]
        return f"must be {words} {_limit(context[limit])}, not {value}"
    if kind == "finite_number":
        return f"must be a finite number, not {value}"
    if kind in ("string_too_short", "too_short") and context["min_length"] == 1:
        return "must not be empty"
    if kind in ("value_error", "assertion_error"):
        return " ".join(detail["msg"].split(", ", 1)[-1].split())
    return detail["msg"].replace("Input should be", f"{value} should be", 1)


def _limit(limit: Any) -> str:
    return f"{limit:.15g}" if isinstance(limit, int | float) else str(limit)
