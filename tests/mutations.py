"""Mutations of trees of plain data, written as text that is YAML and, but for raw pieces, JSON."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st


class Raw(str):
    """Text that is written as it is."""

    __slots__ = ()


class Pairs(list):
    """A mapping as a list of [key, value]: a key may be there twice."""


VALUES: tuple[Any, ...] = (
    *(Raw("9" * 400), Raw("1e999"), Raw("-1e-999"), Raw("-0"), Raw("0.0"), 2**31, 2**63, 2**64, -1),
    *(Raw("NaN"), Raw("Infinity"), None, True, False, "", " ", "x" * 5000, "\ud800", "\x1b[2J\0"),
    *(Raw('"\\u0000"'), Raw("\x07"), Raw('"\u2028\x85"'), "../../evil", "/dev/null", "a\nb", "é"),
    *([], Pairs(), [[]], [None], Pairs([["", 1]]), Raw("[" * 40 + "]" * 40), "__class__", "{0}"),
    *(Raw('{"a": ' * 40 + "1" + "}" * 40), Raw("[" * 3000), [1] * 300, "NaN", "inf", "1_000", "%s"),
)
"""Values that some reader may not expect."""

RECIPE_VALUES: tuple[Any, ...] = (
    *(Raw(".nan"), Raw("-.inf"), Raw("0x" + "f" * 50), Raw("0o17"), Raw("2020-01-01"), Raw("no")),
    *(Raw("&a [*a]"), Raw("&a 1"), Raw("*a"), Raw("*name"), Raw("&a {b: &a 2}"), Raw("!x 1")),
    *(Raw("!!python/object:os.system x"), Raw("!!set {a}"), Raw("!!binary x"), Raw("!!int x")),
    *(Raw("{<<: {a: 1}}"), Raw("{<<: *a}"), Raw("{? [a] : 1}"), Raw("{1: a}"), Raw("|\n x"), "*"),
    *("unet", "vae.decode", "vae..decode", ["unet", "unet"], ["unet", 5], "cuda", "bfloat16"),
    *(Raw("'"), Raw('"\\q"'), Raw("@"), Raw("\t"), Raw("# x\n"), Raw("---\n"), Raw("%YAML 9\n")),
)
KEYS: tuple[Any, ...] = (
    *("", " ", "null", "1", "a\nb", "\x1b", "é", "a" * 300, "__class__", "name", "a.b", "\ud800"),
)
RECIPE_KEYS: tuple[Any, ...] = (
    *(Raw("<<"), Raw("~"), Raw("? [a]"), Raw("&a b"), Raw("*a"), "components", "budget", "extends"),
    *("allow_no_match", "steps", "torch_compile", "sample", "seed", "precision", "torch_compil"),
)
KINDS = ("delete", "duplicate", "swap", "rename", "replace", "replace")

INTERNALS = re.compile(
    r"Traceback|object at 0x|<class '|<function|NoneType|pydantic|ruamel|Value error|input_value|"
    r"\b(Scalar|Mapping|Sequence)Node\b|Key?Error\(|ctypes|\bcaptured\b"
)
"""What no message may hold: a traceback, or Python's own way to show things."""


def tree(data: Any) -> Any:
    """Plain data with its mappings as `Pairs`."""
    if isinstance(data, dict):
        return Pairs([key, tree(value)] for key, value in data.items())
    return [tree(item) for item in data] if isinstance(data, list) else data


def written(node: Any) -> str:
    """A tree as text in flow style."""
    if isinstance(node, Raw):
        return str(node)
    if isinstance(node, Pairs):
        return f"{{{', '.join(f'{written(key)}: {written(value)}' for key, value in node)}}}"
    if isinstance(node, list):
        return f"[{', '.join(map(written, node))}]"
    return json.dumps(node)


def mutated(sources: Sequence[Any], values: Sequence[Any], keys: Sequence[Any]) -> Any:
    """A strategy: the text of one of the trees, with up to four mutations."""
    new_values = st.sampled_from(values) | st.text(max_size=9) | st.integers() | st.floats()
    new_keys = st.sampled_from(keys) | st.text(max_size=9)

    @st.composite
    def _text(draw: Any) -> str:
        root = copy.deepcopy(sources[draw(st.integers(0, len(sources) - 1))])
        for _ in range(draw(st.integers(1, 4))):
            if not root:
                break
            owner, at = _place(draw, root)
            kind = draw(st.sampled_from(KINDS))
            if kind == "delete":
                del owner[at]
            elif kind == "duplicate":
                owner.insert(at, copy.deepcopy(owner[at]))
            elif kind == "swap":
                other = _place(draw, root)
                one, two = copy.deepcopy(_value(owner, at)), copy.deepcopy(_value(*other))
                _put(owner, at, two)
                _put(*other, one)
            elif kind == "rename" and isinstance(owner, Pairs):
                owner[at][0] = draw(new_keys)
            else:
                _put(owner, at, copy.deepcopy(draw(new_values)))
        return written(root)

    return _text()


def _place(draw: Any, root: Any) -> tuple[Any, int]:
    """A place in a tree, by one step down after the other: long lists get no more than others."""
    owner = root
    while True:
        at = draw(st.integers(0, len(owner) - 1))
        value = _value(owner, at)
        if not isinstance(value, list) or not value or not draw(st.integers(0, 3)):
            return owner, at
        owner = value


def _value(owner: Any, at: int) -> Any:
    return owner[at][1] if isinstance(owner, Pairs) else owner[at]


def _put(owner: Any, at: int, value: Any) -> None:
    if isinstance(owner, Pairs):
        owner[at] = [owner[at][0], value]
    else:
        owner[at] = value
