"""ruamel.yaml's syntax errors, as one plain sentence and one place."""

from __future__ import annotations

import re
from collections.abc import Callable

from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from compilekit.errors import Location, Problem

_SENTENCES = (
    (r"'\\t' that cannot start any token", "a tab cannot indent or begin a value: use spaces"),
    (r"character (?P<what>.+) that cannot start", "{what} cannot begin a value: put it in quotes"),
    (
        r"mapping values are not allowed here",
        'a ":" cannot stand here: check the indentation, or put the text in quotes',
    ),
    (r"expected ',' or '(?P<what>.)'", 'a "," or the closing "{what}" is missing'),
    (r"expected <block end>", "this does not fit the lines above: check the indentation"),
    (r"expected '<document start>'", 'this is not in the form "key: value"'),
    (r"undefined alias '(?P<what>.+)'", "there is no anchor &{what} before this alias"),
    (r"another document", "a recipe is one YAML document; a second one begins here"),
    (r"unknown escape character", "this escape is not known in a double-quoted string"),
)
_SENTENCES_FOR_START = (
    (r"scanning a quoted scalar.*unexpected end", "the quote that opens here is never closed"),
    (r"double-quoted scalar.*unexpected end", "the quote that opens here is never closed"),
    (r"could not find expected ':'", 'the ":" after this key is missing'),
)


def syntax_problem(
    error: YAMLError, text: str, file: str, locate: Callable[[int, int], Location]
) -> Problem:
    """What is wrong with the text, and where. `locate` takes a line and a column from 0."""
    if isinstance(error, ReaderError):
        return _bad_character(error, text, locate)
    if not isinstance(error, MarkedYAMLError):
        return Problem(Location(file), "", f"not valid YAML: {_one_line(str(error))}")
    text = _one_line(": ".join(filter(None, (error.context, error.problem))))
    mark, message = error.problem_mark or error.context_mark, f"not valid YAML: {text}"
    if sentence := _first(_SENTENCES_FOR_START, text):
        mark, message = error.context_mark or mark, sentence
    elif sentence := _first(_SENTENCES, text):
        message = sentence
    where = Location(file) if mark is None else locate(mark.line, mark.column)
    return Problem(where, "", message)


def _first(sentences: tuple[tuple[str, str], ...], text: str) -> str:
    for pattern, sentence in sentences:
        if match := re.search(pattern, text):
            return sentence.format(**match.groupdict())
    return ""


def _bad_character(
    error: ReaderError, text: str, locate: Callable[[int, int], Location]
) -> Problem:
    code = error.character if isinstance(error.character, int) else ord(error.character)
    before = text[: max(text.find(chr(code)), 0)].split("\n")
    where = locate(len(before) - 1, len(before[-1]))
    return Problem(where, "", f"the character U+{code:04X} is not allowed in YAML")


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
