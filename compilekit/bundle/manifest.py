"""The manifest of a bundle, read and checked. Light: no torch.

A manifest is untrusted input: nothing in it is used before it is checked.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError

from compilekit.base.arguments import path_of
from compilekit.base.texts import printable
from compilekit.bundle.consistency import faults
from compilekit.bundle.contents import (
    FORMAT,
    NAME,
    Component,
    Contents,
    Data,
    Entry,
    File,
    Output,
    Parameter,
    Part,
    Replay,
    Step,
    Tensor,
    Whole,
)
from compilekit.errors import BundleError
from compilekit.recipe.messages import shown

__all__ = [
    "LIMIT",
    "NAME",
    "REPLAY",
    "SIGNATURE",
    "Component",
    "Data",
    "Entry",
    "File",
    "Manifest",
    "Output",
    "Parameter",
    "Part",
    "Replay",
    "Step",
    "Tensor",
    "Whole",
    "schema",
]

SIGNATURE = "model.sig"
"""Lies beside the manifest, which does not list it."""

REPLAY = "replay.safetensors"
LIMIT = 64 * 1024 * 1024
"""The largest manifest that is read, in bytes; the largest real ones have a few megabytes."""


class Manifest(Contents):
    """The description of a bundle: recipe, machine, components, parts, files, numbers.

    >>> import compilekit as ck
    >>> ck.Manifest.model_json_schema()["title"]
    'compilekit bundle'
    """

    model_config = ConfigDict(title="compilekit bundle")

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Read and check the manifest of a bundle. Reads no other file."""
        return cls.read_with_digest(folder)[0]

    @classmethod
    def read_with_digest(cls, folder: str | Path) -> tuple[Manifest, str]:
        """Read a manifest; returns it with the digest of the bytes that were read."""
        path = folder_of(folder) / NAME
        text = _bytes_of(path)
        return cls.parse(text, str(path)), hashlib.sha256(text).hexdigest()

    @classmethod
    def parse(cls, text: bytes, where: str = NAME) -> Manifest:
        """Read a manifest from bytes; `where` names it in messages."""
        if len(text) > LIMIT:
            raise BundleError(f"{where}: larger than {LIMIT >> 20} MB, so it is no manifest")
        try:
            manifest = cls.model_validate_json(text)
        except ValidationError as error:
            raise BundleError(f"{where}: {_first(error)}") from error
        for fault in faults(manifest):
            raise BundleError(f"{where}: {printable(fault)}")
        own = manifest.own_digest
        if own and hashlib.sha256(text.replace(own.encode(), b"")).hexdigest() != own:
            raise BundleError(f"{where}: was altered: its SHA-256 is not the one that it holds")
        return manifest

    def to_json(self) -> str:
        """The manifest as JSON text, with the digest of this text in it."""
        text = self.model_copy(update={"own_digest": ""}).model_dump_json(indent=1) + "\n"
        before, key, after = text.rpartition('"own_digest": "')
        return f"{before}{key}{hashlib.sha256(text.encode()).hexdigest()}{after}"


def folder_of(bundle: str | Path) -> Path:
    """The folder of a bundle, as a user names it."""
    return path_of(bundle, "a bundle is the path of a folder")


def _bytes_of(path: Path) -> bytes:
    if path.is_symlink():
        raise BundleError(f"{path}: is a link, and a bundle holds only plain files")
    if not path.parent.is_dir():
        is_file = path.parent.exists()
        raise BundleError(f"{path.parent}: {'a file, not a' if is_file else 'no such'} folder")
    if not path.is_file():
        raise BundleError(f"{path.parent}: is no bundle: it holds no {NAME}")
    try:
        if path.stat().st_size > LIMIT:
            raise BundleError(f"{path}: larger than {LIMIT >> 20} MB, so it is no manifest")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error


def _first(error: ValidationError) -> str:
    """The first fault in words; a wrong version comes first."""
    faults = error.errors(include_url=False, include_context=False)
    version = [fault for fault in faults if fault["loc"] == ("compilekit_bundle",)]
    if version and version[0]["type"] != "missing":
        return (
            f"compilekit_bundle: version {shown(version[0]['input'])} is not known here, only "
            f"{FORMAT}: load it with the compilekit that built it, or build it again"
        )
    return first_fault(error)


def first_fault(error: ValidationError) -> str:
    """The first of pydantic's faults as a sentence, and how many more there are."""
    faults = error.errors(include_url=False, include_context=False)
    where = ".".join(map(str, faults[0]["loc"]))
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    message = f"{faults[0]['msg'].removeprefix('Value error, ')}{more}"
    return printable(f"{where}: {message}" if where else message)


def schema() -> dict[str, Any]:
    """The published JSON Schema of manifests."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Manifest.model_json_schema(),
    }
