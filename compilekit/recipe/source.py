"""A recipe's text as a `Document`: plain data, where each part stands, and what it extends."""

from __future__ import annotations

import codecs
import os
import re
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from compilekit.base.texts import printable
from compilekit.errors import Location, Problem, RecipeError, UsageError
from compilekit.recipe.messages import guess, shown
from compilekit.recipe.nodes import KeyPath, Place, parse

MAX_BYTES = 1024 * 1024
STDIN = "<stdin>"

KEYS = ("compilekit", "extends", "model", "sample", "shapes", "steps", "target", "tuned", "verify")
"""The keys by which a file is known as a recipe: few other files have one of them."""

_HAS_KEY = re.compile(rf"""(^|[{{,])\s*["']?({"|".join(KEYS)})["']?\s*:""", re.MULTILINE)


@dataclass(frozen=True)
class Document:
    """A recipe as it was written.

    file: how the user named it.
    folder: where the files that it names are looked for.
    data: what it says, with the base that it extends.
    places: where each key and value stands, in this file or in the base.
    """

    file: str
    folder: Path
    data: dict[str, Any]
    places: Mapping[KeyPath, Place]

    def locate(self, path: KeyPath, *, key: bool = False) -> Location:
        """Where a value (or its key) stands; else the nearest thing around it that exists."""
        for length in range(len(path), -1, -1):
            place = self.places.get(path[:length])
            if place is not None:
                return place.key if key and length == len(path) else place.value
        return Location(self.file)


def read_file(path: str | Path) -> Document:
    """Read a recipe file, and the base that it extends."""
    name = str(path)
    return read_text(_text_of(name, Location(name)), name)


def read_stdin() -> Document:
    """Read a recipe from standard input."""
    if sys.stdin is None:
        raise _error(Location(STDIN), "standard input is closed")
    stream = getattr(sys.stdin, "buffer", None)
    content = (
        sys.stdin.read(MAX_BYTES + 1).encode() if stream is None else stream.read(MAX_BYTES + 1)
    )
    return read_text(_decoded(content, STDIN), STDIN)


def read_text(text: str, file: str = "<recipe>") -> Document:
    """Read a recipe from text; `file` names it in messages."""
    if not isinstance(text, str):
        raise UsageError(f"the text of a recipe is a string of YAML, not {shown(text)}")
    document = _document(text, file)
    return _merged(_base_of(document), document) if "extends" in document.data else document


def _document(text: str, file: str) -> Document:
    if len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise _error(Location(file), f"larger than {MAX_BYTES} bytes: this is no recipe")
    parsed = parse(text, file)
    if parsed.data is None:
        raise _error(Location(file, 1, 1), "the recipe is empty")
    if not isinstance(parsed.data, dict):
        where = parsed.places[()].value
        kind = "a list" if isinstance(parsed.data, list) else "a single value"
        raise _error(where, f"a recipe is a mapping (key: value), not {kind}")
    folder = Path() if file.startswith("<") else Path(file).parent
    return Document(file, folder, parsed.data, parsed.places)


def _text_of(name: str, blame: Location, key: str = "") -> str:
    path, prefix = Path(name), "" if blame.file == name else f"{name}: "
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise _error(blame, f"{prefix}a folder, not a file", key)
        if not stat.S_ISREG(mode):  # opening a pipe would wait for whoever writes to it
            raise _error(blame, f"{prefix}a pipe or a device, and a recipe is a plain file", key)
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _error(blame, f"{prefix}no such file{_near(path)}", key) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a file's name"
        raise _error(blame, f"{prefix}cannot be read: {reason}", key) from None
    if len(content) > MAX_BYTES:
        raise _error(Location(name), f"larger than {MAX_BYTES} bytes: this is no recipe")
    return _decoded(content, name)


def _decoded(content: bytes, file: str) -> str:
    """A recipe's text. Of a file that is none, no message may show anything."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise _error(Location(file), "not UTF-8 text: it begins as UTF-16 does. Save it as UTF-8")
    rough = content.decode("utf-8-sig", "replace")
    if rough.strip() and not _HAS_KEY.search(rough):
        raise _error(Location(file), f"is no recipe: it has none of the keys {', '.join(KEYS)}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8-sig", "replace").split("\n")
        where = Location(file, len(before), len(before[-1]) + 1)
        byte = error.object[error.start]
        raise _error(where, f"not UTF-8 text: the byte 0x{byte:02x} makes no character") from None


def _base_of(document: Document) -> Document:
    name, blame = document.data["extends"], document.locate(("extends",))
    if not isinstance(name, str) or not name:
        raise _error(blame, f"{shown(name)} is not the name of a recipe file", "extends")
    path = os.path.join(document.folder, name)  # noqa: PTH118  # Path() would drop a leading "./"
    base = _document(_text_of(path, blame, "extends"), path)
    if "extends" in base.data:
        where = base.locate(("extends",), key=True)
        message = f"{document.file} extends this file, so it cannot extend another: one level only"
        raise _error(where, message, "extends")
    return base


def _merged(base: Document, child: Document) -> Document:
    """Later keys win: mappings one level deep, all else (steps, shapes) as a whole."""
    data, replaced = dict(base.data), set[KeyPath]({()})
    for key, value in child.data.items():
        old = data.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            data[key] = {**old, **value}
            replaced.update((key, inner) for inner in value)
        else:
            data[key] = value
            replaced.add((key,))
    del data["extends"]
    places = {
        path: place
        for path, place in base.places.items()
        if path[:1] not in replaced and path[:2] not in replaced
    }
    return Document(child.file, child.folder, data, {**places, **child.places})


def _near(path: Path) -> str:
    try:
        files = [other for other in path.parent.iterdir() if other.suffix == path.suffix]
        near = get_close_matches(path.name, [file.name for file in files if file.is_file()])
    except (OSError, ValueError):
        return f"; nor is there a folder {path.parent}"
    return guess(path.name, [name for name in near if _can_be_read(path.with_name(name))])


def _can_be_read(path: Path) -> bool:
    try:
        _document(_text_of(str(path), Location(str(path))), str(path))
    except RecipeError:
        return False
    return True


def _error(where: Location, message: str, key: str = "") -> RecipeError:
    return RecipeError([Problem(where, key, printable(message))])
