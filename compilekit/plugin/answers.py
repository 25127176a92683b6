"""What is wrong with a plugin's answer, in words. A slip in one plugin must harm no other."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import BaseModel

from compilekit.base.words import DEVICES
from compilekit.plugin.steps import Part, StepDescription, StepResult, Whole

RESERVED = {"components", "allow_no_match", "budget"}
FUNCTIONS = ("check", "advice", "candidates", "judge", "sizes", "reads", "prepare", "move", "wait")


def shown(value: object) -> str:
    """A value that was not expected, in short."""
    return "None" if value is None else f"a {type(value).__name__}"


def is_names(value: object) -> bool:
    """Whether a value is a set of names."""
    return isinstance(value, set | frozenset) and all(isinstance(name, str) for name in value)


def bad_description(description: object) -> str:
    """Why an answer of `describe` cannot be used; empty if it can."""
    if not isinstance(description, StepDescription):
        return f"describe returned {shown(description)}, not a StepDescription"
    return next((f"describe: {fault}" for fault in _faults(description) if fault), "")


def _faults(description: StepDescription) -> list[str]:
    targets, budget = description.targets, description.budget
    unknown = sorted(set(targets) - set(DEVICES)) if is_names(targets) else []
    is_number = isinstance(budget, int | float) and not isinstance(budget, bool)
    moves = description.move is not None or description.wait is not None
    many = moves and is_names(targets) and len(targets) != 1
    functions = {k: f for k in FUNCTIONS if (f := getattr(description, k)) is not None}
    names = {name: getattr(description, name) for name in ("packages", "variables")}
    return [
        "" if isinstance(description.help, str) else "help must be a line of text",
        _bad_options(description.options),
        "" if is_names(targets) else "targets must be a set of names",
        f'"{unknown[0]}" is no target; targets are {", ".join(DEVICES)}' if unknown else "",
        "" if is_number and budget > 0 else f"the budget must be above 0, not {budget!r}",
        *(f"{k} must be a tuple of names" for k, v in names.items() if not _is_tuple(v)),
        "" if callable(description.effects) else "effects must be a function",
        *(f"{k} must be a function" for k, f in functions.items() if not callable(f)),
        "`move` and `wait` need exactly one target" if many else "",
        "" if isinstance(description.whole, Whole | None) else "whole must be a Whole",
    ]


def _bad_options(options: object) -> str:
    if not (isinstance(options, type) and issubclass(options, BaseModel)):
        return "options must be a class derived from compilekit.Options"
    if options.model_config.get("extra") != "forbid":
        return 'the options model must forbid unknown keys (extra="forbid")'
    if reserved := sorted(RESERVED & set(options.model_fields)):
        return f"the option name {reserved[0]} is reserved for every step"
    try:
        options.model_json_schema()
    except Exception as error:  # noqa: BLE001 - whatever it is, the plugin brought it
        return f"the options have no JSON form, as recipes need: {str(error).splitlines()[0]}"
    return ""


def bad_result(result: object) -> str:
    """What a step returned in place of a proper `StepResult`; empty if it is one."""
    if not isinstance(result, StepResult):
        return f"{shown(result)}, not a StepResult"
    for key in ("matched", "changed"):
        value = getattr(result, key)
        if not isinstance(value, Mapping) or not all(map(_is_list, value.values())):
            return f"a StepResult whose `{key}` is no mapping of names to lists of names"
    for key in ("skipped", "kept_state", "not_savable"):
        value = getattr(result, key)
        if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
            return f"a StepResult whose `{key}` is no mapping of names to sentences"
    if not _is_list(result.advice):
        return "a StepResult whose `advice` is no list of sentences"
    if not isinstance(result.details, dict) or not all(isinstance(k, str) for k in result.details):
        return "a StepResult whose `details` is no dict of names"
    if not _is_json(result.remembered):
        return "a StepResult whose `remembered` holds what JSON cannot"
    return ""


def bad_part(part: object) -> str:
    """What `export` returned in place of a proper `Part`; empty if it is one."""
    if not isinstance(part, Part):
        return f"{shown(part)}, not a Part"
    if not isinstance(part.constants, Mapping) or not all(
        isinstance(name, str) and hasattr(tensor, "data_ptr")
        for name, tensor in part.constants.items()
    ):
        return "a Part whose `constants` is no mapping of names to tensors"
    if not is_names(part.packed):
        return "a Part whose `packed` is no set of names"
    if not _is_json(part.details):
        return "a Part whose `details` holds what JSON cannot"
    pictures = [picture for picture in (part.reference, part.drawn) if picture is not None]
    if not all(getattr(picture, "ndim", 0) == 4 for picture in pictures):  # noqa: PLR2004
        return "a Part whose pictures are no arrays of shape (N, H, W, C)"
    return ""


def _is_json(value: object) -> bool:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return False
    try:
        json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _is_tuple(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(name, str) and name for name in value)


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
