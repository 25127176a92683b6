"""Which entry points can share a part: those with the same code and shapes of weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from types import MethodType
from typing import Any

import torch
from torch import nn

from compilekit.base.diffusers_internals import canonical
from compilekit.base.torch_internals import hooks_of
from compilekit.bundle.calls import SCALARS, TRUSTED
from compilekit.bundle.constants import held_by
from compilekit.bundle.signature import Signature
from compilekit.subject.model import EntryPoint, Layer

COMMON = frozenset({*vars(nn.Module()), "extra_repr"})
"""The attributes that every module has. Weights, children and hooks are compared elsewhere."""

DEPTH = 6


class Unlike(str):
    """Stands for a value that cannot be compared. It equals only itself, in this process."""

    __slots__ = ()


def unlike(value: object) -> Unlike:
    """The stand-in for a value that cannot be compared."""
    return Unlike(f"unlike {id(value)}: {type(value).__name__}")


def likeness(entry: EntryPoint) -> str:
    """A digest that is equal for entry points that compile to the same code."""
    tensors = [held.row.model_dump(mode="json") for held in held_by(entry.owner)]
    modules = structure(entry.owner)
    return digest_of([entry.method, list(modules), modules, tensors])


def part_name(likeness_: str, step: int, signature: Signature) -> str:
    """A short name for a part, the same in every build."""
    return digest_of([likeness_, step, signature.model_dump(mode="json")])[:12]


def structure(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Classes and plain settings of a module and its children.

    Layers around the module's own methods are left out: they are not compiled.
    """
    return {
        name: {
            "class": _class(type(child)),
            "settings": _settings(child, with_layers=child is not module),
            "training": child.training,
            "hooks": [unlike(hook) for hook in hooks_of(child)],
        }
        for name, child in module.named_modules()
    }


def _class(kind: type) -> str:
    """A class by its name. A class made in a function may differ each time."""
    return unlike(kind) if "<locals>" in kind.__qualname__ else _name(kind)


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _settings(module: nn.Module, *, with_layers: bool) -> dict[str, Any]:
    return {
        name: plain(value)
        for name, value in canonical(vars(module)).items()
        if name not in COMMON and (with_layers or not isinstance(value, Layer))
    }


def plain(value: Any, depth: int = 0) -> Any:
    """A value in a form that is the same in every process; `unlike` if there is none."""
    if isinstance(value, (*SCALARS, bytes, Enum, torch.dtype, torch.device, torch.layout)):
        return f"{value!r}"
    if isinstance(value, torch.Tensor | nn.Module):
        return "a tensor or module, compared elsewhere"
    if isinstance(value, type) or getattr(value, "__qualname__", "").isidentifier():
        return _name(value)
    if isinstance(value, MethodType) and hasattr(value.__func__, "__qualname__"):
        return _name(value.__func__)
    if depth == DEPTH:
        return unlike(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, depth + 1) for key, item in canonical(value).items()}
    if isinstance(value, set | frozenset):
        return sorted((plain(item, depth + 1) for item in value), key=repr)
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    if type(value).__module__.split(".")[0] in TRUSTED:
        return [_name(type(value)), plain(_attributes(value), depth + 1)]
    return unlike(value)


def _attributes(value: object) -> dict[str, Any]:
    """What an object holds, in its slots and in its dictionary."""
    tables = [vars(kind).get("__slots__", ()) for kind in type(value).__mro__]
    names = [n for slots in tables for n in ([slots] if isinstance(slots, str) else slots)]
    held = {name: getattr(value, name, None) for name in names if not name.startswith("__")}
    return {**held, **getattr(value, "__dict__", {})}


def digest_of(value: Any) -> str:
    """The digest of plain values."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
