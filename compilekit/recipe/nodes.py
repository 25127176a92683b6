"""YAML text to plain data, and the place of every key and value in it.

Scalars are read by the core schema of YAML 1.2: `no`, `on`, `1_000` and dates are strings.
Only ruamel.yaml's nodes are used, never its constructors: no tag can make an object.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from compilekit.base.texts import printable
from compilekit.errors import Location, Problem, RecipeError
from compilekit.recipe.syntax import syntax_problem

KeyPath: TypeAlias = "tuple[str | int, ...]"

MAX_DEPTH = 32
MAX_VALUES = 20_000
MAX_NUMBER = 300  # digits; Python itself refuses to print far longer ones

_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"
_TOO_MANY = f"more than {MAX_VALUES} values, aliases expanded"

_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = frozenset({"str", "int", "float", "bool", "null", "timestamp", "merge", "value"})

# What ruamel.yaml lets through on some malformed text, besides its own errors.
_PARSER_CRASHES = (ValueError, OverflowError, LookupError, AttributeError, AssertionError)


class Place(NamedTuple):
    """Where a value stands, and its key (the same place for an item of a list)."""

    key: Location
    value: Location


@dataclass(frozen=True)
class Parsed:
    """Plain data, and a place for every path into it."""

    data: Any
    places: dict[KeyPath, Place]


def dotted(path: KeyPath, prefix: str = "") -> str:
    """A path as messages write it.

    >>> dotted(("steps", 2, "torch_compile", "mode"))
    'steps[2].torch_compile.mode'
    """
    text = prefix
    for element in path:
        if isinstance(element, int):
            text += f"[{element}]"
        else:
            text += f".{printable(element)}" if text else printable(element)
    return text


def parse(text: str, file: str, *, line: int = 0, column: int = 0) -> Parsed:
    """Read one YAML document that starts at a line and column (from 0) of a file."""
    origin = _Origin(file, line, column)
    reader = _Reader(origin)
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _Composer
    try:
        node = yaml.compose(text)
        data = None if node is None else reader.build(node, (), None)
    except _TooLargeError as error:
        raise RecipeError([Problem(origin.mark(error.mark), "", str(error))]) from None
    except YAMLError as error:
        raise RecipeError([syntax_problem(error, text, file, origin.at)]) from None
    except _PARSER_CRASHES:
        raise RecipeError([Problem(Location(file), "", "not valid YAML")]) from None
    if reader.problems:
        raise RecipeError(reader.problems)
    return Parsed(data, reader.places)


class _Origin(NamedTuple):
    """Where a text starts in the file that it is a part of."""

    file: str
    line: int
    column: int

    def at(self, line: int, column: int) -> Location:
        first = self.column if line == 0 else 0
        return Location(self.file, self.line + line + 1, first + column + 1)

    def mark(self, mark: Any) -> Location:
        return self.at(mark.line, mark.column)


class _TooLargeError(Exception):
    def __init__(self, message: str, mark: Any) -> None:
        super().__init__(message)
        self.mark = mark


class _Composer(Composer):
    """Stops early: a deep or endless text is refused before it takes time or stack."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        self.warn_double_anchors = False
        self.level = 0
        self.count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.count += 1
        if self.level > MAX_DEPTH:
            raise _TooLargeError(_TOO_DEEP, self.parser.peek_event().start_mark)
        if self.count > 2 * MAX_VALUES:
            raise _TooLargeError(_TOO_MANY, self.parser.peek_event().start_mark)
        self.level += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.level -= 1


@dataclass
class _Reader:
    """Builds plain data from nodes; collects problems, so that all are reported at once."""

    origin: _Origin
    places: dict[KeyPath, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    parents: list[Node] = field(default_factory=list)
    count: int = 0

    def build(self, node: Node, path: KeyPath, key: Location | None) -> Any:
        self.count += 1
        if self.count > MAX_VALUES:
            raise _TooLargeError(_TOO_MANY, node.start_mark)
        if len(path) > MAX_DEPTH:
            raise _TooLargeError(_TOO_DEEP, node.start_mark)
        where = self.origin.mark(node.start_mark)
        if key is not None and isinstance(node, ScalarNode) and not node.value and not node.style:
            where = key  # the mark of a value left out is that of whatever comes next
        self.places[path] = Place(key or where, where)
        if any(node is parent for parent in self.parents):
            return self.refuse(path, where, "an alias that contains itself")
        self.parents.append(node)
        try:
            return self.value(node, path, where)
        finally:
            self.parents.pop()

    def value(self, node: Node, path: KeyPath, where: Location) -> Any:
        kind = _kind(node)
        if isinstance(node, MappingNode) and kind == "map":
            return self.mapping(node, path)
        if isinstance(node, SequenceNode) and kind == "seq":
            return [self.build(item, (*path, i), None) for i, item in enumerate(node.value)]
        if isinstance(node, ScalarNode) and kind in _SCALAR_TAGS:
            return self.scalar(node.value, kind, path, where)
        tag = printable(f"!!{kind}" if kind != node.tag else kind)
        return self.refuse(path, where, f"the tag {tag} is not allowed: a recipe is plain data")

    def mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            at = self.origin.mark(key_node.start_mark)
            name = key_node.value
            inner = (*path, name) if isinstance(name, str) else path
            if key_node.tag == f"{_TAG}merge":
                self.refuse(path, at, 'merge keys ("<<") are not read: use extends:')
            elif not isinstance(key_node, ScalarNode):
                self.refuse(path, at, "a key must be a string, not a list or a mapping")
            elif not isinstance(self.scalar(name, _kind(key_node), path, at), str):
                key = printable(name) or "null"
                self.refuse(path, at, f"the key {key} is not a string: put it in quotes")
            elif name in data:
                first = self.places[inner].key.line
                self.refuse(inner, at, f"duplicate key; first given on line {first}")
            else:
                data[name] = self.build(value_node, inner, at)
        return data

    def scalar(self, text: str, kind: str, path: KeyPath, where: Location) -> Any:
        if kind in ("int", "float") and len(text) > MAX_NUMBER:
            return self.refuse(path, where, f"a number of more than {MAX_NUMBER} digits")
        if any("\ud800" <= character <= "\udfff" for character in text):
            return self.refuse(path, where, "half a surrogate pair is not a character")
        return _plain(text, kind)

    def refuse(self, path: KeyPath, where: Location, message: str) -> None:
        self.problems.append(Problem(where, dotted(path), message))


def _kind(node: Node) -> str:
    return (node.tag or "").removeprefix(_TAG)


def _plain(text: str, kind: str) -> Any:
    """ruamel.yaml's tag, narrowed to the core schema: what that does not read is a string."""
    if kind == "null" and text in ("", "~", "null", "Null", "NULL"):
        return None
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "int" and _INTEGER.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if kind in ("int", "float") and _FLOAT.fullmatch(text):
        return float(text)
    if kind == "float" and _SPECIAL.fullmatch(text):
        return float(text.replace(".", "").lower())
    return text
