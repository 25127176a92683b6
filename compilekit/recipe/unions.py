"""What pydantic's error locations mean: which parts are keys, and which name a union's branch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from compilekit.recipe.nodes import KeyPath

Reported: TypeAlias = "tuple[KeyPath, list[ErrorDetails]]"


def reported(error: ValidationError, data: Any) -> Iterator[Reported]:
    """The errors worth a line each: path, and error; several errors where no branch fits."""
    unions: dict[KeyPath, dict[str, list[Reported]]] = {}
    for detail in error.errors(include_url=False):
        path, at, branch = _taken_apart(detail, data)
        if branch:
            unions.setdefault(path[:at], {}).setdefault(branch, []).append((path, [detail]))
        else:
            yield path, [detail]
    for path, by_branch in unions.items():
        branches = by_branch.values()
        fitting = [branch for branch in branches if not _is_other_type(branch, path)]
        if fitting:
            yield from min(fitting, key=len)
        else:
            yield (
                path,
                [detail for branch in branches for _, details in branch for detail in details],
            )


def _is_other_type(branch: list[Reported], path: KeyPath) -> bool:
    """Whether the value is no such thing at all, so that what is in it does not matter."""
    kinds = [details[0]["type"] for at, details in branch if at == path]
    return any(
        kind.endswith(("_type", "_parsing", "_from_float", "_required", "literal_error", "enum"))
        for kind in kinds
    )


def _taken_apart(detail: ErrorDetails, data: Any) -> tuple[KeyPath, int, str]:
    """The path of keys; where in it a union stands; the name of the union's branch."""
    path: list[str | int] = []
    at, branch = 0, ""
    location = detail["loc"]
    for position, element in enumerate(location):
        last = position == len(location) - 1
        if last and element == "[key]":
            break
        missing = last and detail["type"] == "missing"
        if isinstance(element, int) or missing or (isinstance(data, dict) and element in data):
            path.append(element)
            try:
                data = data[element]
            except (LookupError, TypeError):
                data = None
        elif not branch:
            at, branch = len(path), str(element)
    return tuple(path), at, branch


def known_keys(model: type[BaseModel], path: KeyPath) -> list[str]:
    """The keys that a model knows at a path into it."""
    models = [model]
    for element in path:
        fields = (m.model_fields.get(str(element)) for m in models)
        inner = [m for field in fields if field is not None for m in _models(field.annotation)]
        models = inner or models  # an index, or a key of a plain mapping, stays in the same models
    return [field.alias or name for m in models for name, field in m.model_fields.items()]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
