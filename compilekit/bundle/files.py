"""The files of a bundle: written beside their final place, checked before anything is believed.

Light: no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from compilekit.bundle.manifest import NAME, File, Manifest
from compilekit.errors import BundleError, UsageError

Check = Literal["all", "code"]
"""Whether the digests of all files are compared, or only of those that are not weights."""

WEIGHTS = (".safetensors", ".blob")
_CHUNK = 1 << 20


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A folder that gets the target's name when all went well, and is removed otherwise."""
    refuse_existing(target)
    folder = target.parent / f".{target.name}.partial-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{target}: cannot write there: {error.strerror}") from error
    try:
        yield folder
        refuse_existing(target)
        if target.is_dir():
            target.rmdir()
        folder.rename(target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def refuse_existing(target: Path) -> None:
    """A bundle is never written over something else; an empty folder is nothing."""
    if target.is_symlink() or (
        target.exists() and not (target.is_dir() and not any(target.iterdir()))
    ):
        raise UsageError(f"{target}: is there already; name another place, or remove it first")


def listed(folder: Path) -> list[File]:
    """Every file below a folder, with its digest, in the order of their names."""
    paths = [path for path in _walk(folder) if path != NAME]
    with ThreadPoolExecutor() as pool:
        digests = pool.map(lambda path: sha256(folder / path), paths)
        return [
            File(path=path, size=(folder / path).stat().st_size, sha256=digest)
            for path, digest in zip(paths, digests, strict=True)
        ]


def check_files(folder: Path, manifest: Manifest, check: Check = "all") -> None:
    """Compare what lies in the folder with what the manifest lists, in one pass."""
    wanted = {file.path: file for file in manifest.files}
    found = set(_walk(folder))
    for path in sorted(wanted.keys() - found):
        raise BundleError(f"{folder / path}: is missing")
    for path in sorted(found - wanted.keys() - {NAME}):
        raise BundleError(f"{folder / path}: is not in the manifest; a bundle holds nothing else")
    for path, file in wanted.items():
        size = (folder / path).stat().st_size
        if size != file.size:
            raise BundleError(f"{folder / path}: has {size} bytes, not {file.size}")
    chosen = [f for f in manifest.files if check == "all" or not f.path.endswith(WEIGHTS)]
    with ThreadPoolExecutor() as pool:
        digests = pool.map(lambda file: sha256(folder / file.path), chosen)
        for file, digest in zip(chosen, digests, strict=True):
            if digest != file.sha256:
                raise BundleError(
                    f"{folder / file.path}: was altered: its SHA-256 is {digest[:12]}…, "
                    f"not {file.sha256[:12]}…"
                )


def sha256(path: Path) -> str:
    """The SHA-256 of a file, read piece by piece."""
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(view[:count])
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _walk(folder: Path) -> Iterator[str]:
    """The plain files below a folder, as relative paths; anything else is refused."""
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        try:
            entries = sorted(os.scandir(folder / prefix), key=lambda entry: entry.name)
        except OSError as error:
            raise BundleError(f"{folder / prefix}: cannot be read: {error.strerror}") from error
        for entry in entries:
            path = f"{prefix}{entry.name}"
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                waiting.append(f"{path}/")
            elif stat.S_ISREG(mode):
                yield path
            else:
                kind = "a link" if stat.S_ISLNK(mode) else "no plain file"
                raise BundleError(f"{folder / path}: is {kind}, and a bundle holds only files")


def total(files: Sequence[File], chosen: Callable[[File], bool] = lambda _: True) -> int:
    """The bytes of some files."""
    return sum(file.size for file in files if chosen(file))
