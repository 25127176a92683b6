"""Which entry points can share a part: modules whose code and weights' shapes are the same."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from compilekit.bundle.calls import SCALARS
from compilekit.bundle.constants import held_by
from compilekit.bundle.signature import Signature
from compilekit.model import EntryPoint

if TYPE_CHECKING:
    from torch import nn


def likeness(entry: EntryPoint) -> str:
    """Equal for entry points for which the same code would be compiled."""
    tensors = [held.row.model_dump(mode="json") for held in held_by(entry.owner)]
    return _digest([entry.method, _structure(entry.owner), tensors])


def part_name(likeness_: str, step: int, signature: Signature) -> str:
    """A short name for a part, the same in every build of it."""
    return _digest([likeness_, step, signature.model_dump(mode="json")])[:12]


def _structure(module: nn.Module) -> list[Any]:
    """Classes and plain settings of a module and all that is in it."""
    return [
        [name, f"{type(each).__module__}.{type(each).__qualname__}", _settings(each)]
        for name, each in module.named_modules()
    ]


def _settings(module: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in vars(module).items():
        if isinstance(value, SCALARS):
            found[name] = value
        elif isinstance(value, tuple | list) and all(isinstance(v, SCALARS) for v in value):
            found[name] = list(value)
        elif name == "processor" or (callable(value) and not name.startswith("_")):
            kind = type(value)
            found[name] = getattr(value, "__qualname__", f"{kind.__module__}.{kind.__qualname__}")
    return found


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
