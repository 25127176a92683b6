"""The files of a bundle: listed with their digests, and checked before anything is believed.

Light: no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from compilekit.bundle.manifest import NAME, SIGNATURE, File, Manifest
from compilekit.errors import BundleError

Check = Literal["all", "code"]
"""Whether the digests of all files are compared, or only of those that are not weights."""

WEIGHTS = (".safetensors", ".blob")
_PIECE = 1 << 26


def listed(folder: Path) -> list[File]:
    """Every file below a folder, with its digest, in the order of their names."""
    paths = [path for path in walk(folder) if path not in (NAME, SIGNATURE)]
    with ThreadPoolExecutor() as pool:
        digests = pool.map(lambda path: sha256(folder / path), paths)
        return [
            File(path=path, size=(folder / path).stat().st_size, sha256=digest)
            for path, digest in zip(paths, digests, strict=True)
        ]


def check_files(folder: Path, manifest: Manifest, check: Check = "all") -> None:
    """Compare what lies in the folder with what the manifest lists, in one pass."""
    with checking(folder, manifest, check) as finish:
        finish()


@contextlib.contextmanager
def checking(folder: Path, manifest: Manifest, check: Check) -> Iterator[Callable[[], None]]:
    """Compare everything but weights at once; weights meanwhile, until `finish` is called.

    Whoever wants to use weights, or to run code, calls what this gives first.
    """
    _compare_names(folder, manifest)
    weights = [file for file in manifest.files if file.path.endswith(WEIGHTS)]
    others = [file for file in manifest.files if not file.path.endswith(WEIGHTS)]
    pool = ThreadPoolExecutor()
    try:
        # Others come first: they are small, and decide what is done while weights are read.
        small = [pool.submit(_compare, folder, file) for file in others]
        large = [pool.submit(_compare, folder, file) for file in weights if check == "all"]
        for each in small:
            each.result()

        def finish() -> None:
            for each in large:
                each.result()

        yield finish
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _compare_names(folder: Path, manifest: Manifest) -> None:
    wanted = {file.path: file for file in manifest.files}
    found = set(walk(folder))
    for path in sorted(wanted.keys() - found):
        raise BundleError(f"{folder / path}: is missing")
    for path in sorted(found - wanted.keys() - {NAME, SIGNATURE}):
        raise BundleError(f"{folder / path}: is not in the manifest; a bundle holds nothing else")
    for path, file in wanted.items():
        size = (folder / path).stat().st_size
        if size != file.size:
            raise BundleError(f"{folder / path}: has {size} bytes, not {file.size}")


def _compare(folder: Path, file: File) -> None:
    digest = sha256(folder / file.path)
    if digest != file.sha256:
        raise BundleError(
            f"{folder / file.path}: was altered: its SHA-256 is {digest[:12]}…, "
            f"not {file.sha256[:12]}…"
        )


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            if path.stat().st_size:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                    _update(digest, mapped)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read: {error}") from error
    return digest.hexdigest()


def _update(digest: Any, mapped: mmap.mmap) -> None:
    # Mapped, in large pieces: a thread that hashes gives way to others at the end of each.
    with memoryview(mapped) as view:
        for start in range(0, len(view), _PIECE):
            with view[start : start + _PIECE] as piece:
                digest.update(piece)


def walk(folder: Path) -> Iterator[str]:
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
