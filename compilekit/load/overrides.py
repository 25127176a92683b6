"""Whether a pipeline can take the arguments that a user names in place of the sample's."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from compilekit.base.texts import did_you_mean
from compilekit.errors import UsageError

PAIRS = (("height", "width"), ("width", "height"))
"""diffusers takes the default of both where one is left out."""


def check_overrides(subject: Any, sample: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Refuse what the pipeline would ignore, and values of another type than it declares."""
    call = type(subject).__call__
    accepted = inspect.signature(call).parameters
    kind, arguments = type(subject).__name__, {**sample, **changes}
    # diffusers' own pipelines take any keyword, and ignore those that they do not know.
    strict = type(subject).__module__.startswith("diffusers.")
    takes_any = not strict and any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    types = _types(call)
    for name, value in changes.items():
        if name == "seed":
            continue
        if name in ("self", "generator") or (name not in accepted and not takes_any):
            known = [other for other in accepted if other != "self"]
            raise UsageError(f"{name}: {kind} takes no such value.{did_you_mean(name, known)}")
        is_default = name in accepted and value is accepted[name].default is None
        if not is_default and (wanted := types.get(name)) is not None and not _is_a(value, wanted):
            raise UsageError(
                f"{name}: {json.dumps(value)} is not what {kind} takes: {_word(wanted)}"
            )
    for name, other in PAIRS:
        missing = other in accepted and arguments.get(other) is None
        if changes.get(name) is not None and missing:
            raise UsageError(f"{name}: {kind} ignores it without {other}: set both")


def _types(call: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(call)
    except Exception:  # noqa: BLE001 - what a signature says is the pipeline's own affair
        return {}


def _is_a(value: Any, wanted: Any) -> bool:
    """Whether plain data is of a type, as far as the type says it."""
    try:
        adapter = TypeAdapter[Any](wanted, config=ConfigDict(arbitrary_types_allowed=True))
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError:
        return False
    except (PydanticUserError, TypeError, NotImplementedError):  # it says nothing of plain data
        return True
    return True


def _word(wanted: Any) -> str:
    return wanted.__name__ if isinstance(wanted, type) else str(wanted).replace("typing.", "")
