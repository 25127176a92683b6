"""Nested containers: their leaves, and copies with other leaves. Light."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any


def is_container(value: Any) -> bool:
    """Whether it is a dict, a list or a tuple, of whatever class."""
    return isinstance(value, dict | list | tuple)


def is_model_output(value: Any) -> bool:
    """Whether it is an output of diffusers or transformers: a dict, and a dataclass too."""
    return isinstance(value, dict) and dataclasses.is_dataclass(value)


def is_plain_container(value: Any) -> bool:
    """Whether it is a container that can be made anew without loss."""
    plain = type(value) in (dict, list, tuple) or hasattr(value, "_fields")
    return is_container(value) and (plain or is_model_output(value))


def leaves(value: Any, opens: Callable[[Any], bool] = is_container) -> dict[str, Any]:
    """The leaves of nested containers by path."""
    by_path: dict[str, Any] = {}
    mapped(value, by_path.setdefault, opens)
    return by_path


def _joined(path: str, key: Any) -> str:
    """The path of a child: dotted, and as Python indexes where a dot would mislead."""
    plain = (
        key and key[0] not in "[-0123456789" and "." not in key
        if isinstance(key, str)
        else type(key) is int
    )
    name = str(key) if plain else f"[{key!r}]"
    return f"{path}.{name}" if path else name


def mapped(
    value: Any,
    replace: Callable[[str, Any], Any],
    opens: Callable[[Any], bool] = is_container,
    path: str = "",
) -> Any:
    """A copy of nested containers in which each leaf is what `replace` gives for its path and it.

    opens: tells which values are looked into; the others are leaves.

    >>> mapped({"a": [1, 2], "b": 3}, lambda path, leaf: f"{path}={leaf}")
    {'a': ['a.0=1', 'a.1=2'], 'b': 'b=3'}
    """
    if not opens(value):
        return replace(path, value)
    items = value.items() if isinstance(value, dict) else enumerate(value)
    parts: dict[Any, Any] = {
        key: mapped(child, replace, opens, _joined(path, key)) for key, child in items
    }
    kind = type(value)
    if isinstance(value, dict):
        return dataclasses.replace(value, **parts) if dataclasses.is_dataclass(value) else parts
    return kind(*parts.values()) if hasattr(value, "_fields") else kind(parts.values())
