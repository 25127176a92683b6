"""The compact text form of steps, for the shell and for logs, both ways.

    channels_last, torchao_int8{min_features=512}, torch_compile{mode=max-autotune}

Values are YAML: scalars, `[lists]` and `{mappings: 1}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compilekit.base.texts import printable
from compilekit.errors import Location, Problem, RecipeError, UsageError
from compilekit.recipe.draft import read_steps
from compilekit.recipe.emit import flow, step_data, string
from compilekit.recipe.messages import shown
from compilekit.recipe.nodes import KeyPath, Place, parse
from compilekit.recipe.schema import FORMAT
from compilekit.recipe.source import Document

if TYPE_CHECKING:
    from compilekit.recipe.parts import StepEntry

FILE = "<steps>"

_WORD = re.compile(r"[^\s,=:#{}\[\]\"']+")
_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*'", re.DOTALL)


def steps_to_text(steps: Iterable[StepEntry]) -> str:
    """Write steps in the compact form.

    >>> steps_to_text(steps_from_text("qkv_fusion, torchao_int8{ min_features = 512 }"))
    'qkv_fusion, torchao_int8{min_features=512}'
    """
    return ", ".join(map(_step_text, steps))


def steps_from_text(text: str) -> list[StepEntry]:
    """Read steps from the compact form."""
    document = document_of_steps(text, "cpu", {})
    entries, problems = read_steps(document, document.data["steps"])
    if problems:
        raise RecipeError(problems)
    return entries


def document_of_steps(text: str, device: str, sample: Mapping[str, Any]) -> Document:
    """A document that says no more than its steps, the device and the sample."""
    if not isinstance(text, str):
        raise UsageError(
            f'steps are a string such as "channels_last, torch_compile", not {shown(text)}'
        )
    if not isinstance(sample, Mapping):
        raise UsageError(f"a sample is a mapping of arguments, not {shown(sample)}")
    flow(sample)  # refuses what no recipe can hold
    reader = _Reader(text)
    if half := re.search("[\ud800-\udfff]", text):  # a byte of a command line that is not UTF-8
        raise reader.error("half a surrogate pair is not a character", half.start())
    data = {
        "compilekit": FORMAT,
        "target": {"device": device},
        "sample": dict(sample),
        "steps": reader.steps(),
    }
    return Document(FILE, Path(), data, reader.places)


def _step_text(step: StepEntry) -> str:
    data = step_data(step)
    if isinstance(data, str):
        return _word(data)
    body = data[step.plugin]
    options = ", ".join(f"{_word(key)}={flow(value)}" for key, value in body.items())
    return f"{_word(step.plugin)}{{{options}}}"


def _word(text: str) -> str:
    written = string(text)
    return f'"{written}"' if " " in written and not written.startswith('"') else written


@dataclass
class _Reader:
    text: str
    at: int = 0
    places: dict[KeyPath, Place] = field(default_factory=dict)

    def steps(self) -> list[Any]:
        start = self.location(0)
        self.places[()] = Place(start, start)
        steps: list[Any] = []
        while self.peek():
            if steps:
                self.expect(",", "between steps")
            steps.append(self.step(("steps", len(steps))))
        if not steps:
            raise self.error("there is no step here: name one", 0)
        return steps

    def step(self, path: KeyPath) -> Any:
        self.peek()
        start = self.location()
        name = self.word("the name of a step")
        inside = (*path, name)
        self.places[path] = self.places[inside] = Place(start, start)
        if self.peek() != "{":
            return name
        self.at += 1
        options: dict[str, Any] = {}
        while self.peek() != "}":
            if options:
                self.expect(",", 'or "}" after an option')
            self.option(inside, options)
        self.at += 1
        return {name: options}

    def option(self, path: KeyPath, options: dict[str, Any]) -> None:
        self.peek()
        start = self.at
        key = self.word("an option")
        if key in options:
            raise self.error(f"{printable(key)} is given twice", start)
        self.expect("=", f"after {printable(key)}")
        options[key] = self.value((*path, key), self.location(start))

    def value(self, path: KeyPath, key: Location) -> Any:
        start = self.at
        raw = self.text[start : self.end_of_value()]
        if not raw.strip():
            raise self.error(f"{printable(str(path[-1]))} has no value")
        # In brackets it is read as in a flow list; the "[" stands where the "=" is.
        line, column = self.position(start - 1)
        parsed = parse(f"[{raw}]", FILE, line=line, column=column)
        if len(parsed.data) != 1:
            raise self.error(f"{printable(str(path[-1]))} has no value", start)
        self.places |= {path + inner[1:]: place for inner, place in parsed.places.items()}
        self.places[path] = Place(key, parsed.places[(0,)].value)
        return parsed.data[0]

    def end_of_value(self) -> int:
        """Moves to the "," or "}" that ends a value."""
        depth, fresh = 0, True  # a quote opens a string only where a scalar can begin
        while self.at < len(self.text):
            character = self.text[self.at]
            quoted = _QUOTED.match(self.text, self.at) if fresh and character in "\"'" else None
            if quoted:
                self.at, fresh = quoted.end(), False
                continue
            if depth == 0 and character in ",}":
                break
            if depth == 0 and character == "=":
                raise self.error('a "," is missing before this option, or quotes around the text')
            depth += (character in "[{") - (character in "]}")
            fresh = character in "[{,:" or (fresh and character.isspace())
            self.at += 1
        return self.at

    def word(self, expected: str) -> str:
        self.peek()
        quoted = _QUOTED.match(self.text, self.at)
        match = quoted or _WORD.match(self.text, self.at)
        if match is None:
            raise self.error(f"expected {expected}")
        line, column = self.position(self.at)
        self.at = match.end()
        return str(parse(match[0], FILE, line=line, column=column).data) if quoted else match[0]

    def expect(self, character: str, where: str) -> None:
        if self.peek() != character:
            raise self.error(f'expected "{character}" {where}')
        self.at += 1

    def peek(self) -> str:
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def position(self, at: int) -> tuple[int, int]:
        before = self.text[:at].split("\n")
        return len(before) - 1, len(before[-1])

    def location(self, at: int | None = None) -> Location:
        line, column = self.position(self.at if at is None else at)
        return Location(FILE, line + 1, column + 1)

    def error(self, message: str, at: int | None = None) -> RecipeError:
        return RecipeError([Problem(self.location(at), "", message)])
