"""An entry of the build cache, and its file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue, TypeAdapter, ValidationError

from compilekit.bundle.files import total
from compilekit.bundle.manifest import Data, File

ENTRY = "entry.json"

Kind = Literal["part", "bundle"]
KINDS: tuple[Kind, ...] = ("part", "bundle")

_RAW: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


class Entry(Data):
    """What the cache knows of one entry."""

    format: Literal[1] = 1
    kind: Kind
    key: str
    title: str = Field(description="What it is, in words.")
    seconds: float = Field(description="How long it took to make.")
    data: dict[str, JsonValue] = Field(description="What its owner wants back.")
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """The bytes of its files."""
        return total(self.files)


def _digest(entry: Entry) -> str:
    return hashlib.sha256(entry.model_dump_json().encode()).hexdigest()


def write(entry: Entry, folder: Path) -> None:
    text = json.dumps({"sha256": _digest(entry), "entry": entry.model_dump(mode="json")})
    (folder / ENTRY).write_text(text + "\n", encoding="utf-8")


def read(folder: Path, kind: Kind, key: str) -> Entry | None:
    """The entry in a folder; None if there is none. Raises ValueError if it is damaged."""
    try:
        text = (folder / ENTRY).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        raw = _RAW.validate_json(text)
        entry = Entry.model_validate_json(json.dumps(raw["entry"]))
    except (ValidationError, KeyError) as error:
        raise ValueError(f"{folder / ENTRY} cannot be read") from error
    if raw.get("sha256") != _digest(entry) or (entry.kind, entry.key) != (kind, key):
        raise ValueError(f"{folder / ENTRY} was altered")
    return entry
