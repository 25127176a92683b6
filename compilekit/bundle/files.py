"""The files of a bundle: listed with their digests, and checked before they are used.

Light: no torch.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import hashlib
import mmap
import os
import shlex
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from compilekit.base.bytesize import size
from compilekit.base.progress import Progress
from compilekit.bundle.manifest import NAME, SIGNATURE, File, Manifest, first_fault
from compilekit.errors import BundleError

Check = Literal["all", "code"]
"""Which digests are compared: those of all files, or only of files that are not weights."""

WEIGHTS = (".safetensors", ".blob")
_PIECE = 1 << 26
LITTER = {
    ".ds_store": "macOS writes into folders that it shows,",
    "._*": "macOS writes beside files on other file systems,",
    "thumbs.db": "Windows writes into folders that it shows,",
    "desktop.ini": "Windows writes into folders that it shows,",
    ".directory": "KDE writes into folders that it shows,",
    ".nfs*": "NFS keeps of a file that was removed while it was open,",
    "*~": "an editor writes as a copy,",
    ".*.sw?": "an editor writes while a file is open,",
}
"""Files that other programs leave, in lower case, and why."""


Tell = Callable[[int], None]


def _say_nothing(_: int) -> None:
    pass


def listed(folder: Path) -> list[File]:
    """Every file below a folder, with its digest, in the order of their names."""
    paths = [path for path in walk(folder) if path not in (NAME, SIGNATURE)]
    with ThreadPoolExecutor() as pool:
        digests = pool.map(lambda path: sha256(folder / path), paths)
        return [_row(folder, *row) for row in zip(paths, digests, strict=True)]


def _row(folder: Path, path: str, digest: str) -> File:
    try:
        return File(path=path, size=(folder / path).stat().st_size, sha256=digest)
    except ValidationError as error:
        raise BundleError(f"{folder}: {first_fault(error)}") from error


def remove_litter(folder: Path) -> None:
    """Remove what other programs have left in a folder that a build writes."""
    for path in walk(folder):
        if _litter(path) is not None:
            (folder / path).unlink(missing_ok=True)


def check_files(folder: Path, manifest: Manifest, progress: Progress | None = None) -> None:
    """Compare the files in the folder with the manifest, in one pass."""
    progress = progress or Progress(enabled=False)
    all_bytes, count = total(manifest.files), len(manifest.files)
    title = f"checking {count} files, {size(all_bytes)}"

    def tell(done: int) -> None:
        progress.read(title, done, all_bytes)

    with progress.stage(title), checking(folder, manifest, "all", tell) as finish:
        finish()


@contextlib.contextmanager
def checking(
    folder: Path, manifest: Manifest, check: Check, tell: Tell = _say_nothing
) -> Iterator[Callable[[], None]]:
    """Compare everything but weights at once, and weights in the background.

    Call the function that this yields before you use weights or run code: it waits for them.
    """
    _compare_names(folder, manifest)
    others = [file for file in manifest.files if not file.path.endswith(WEIGHTS)]
    weights = [f for f in manifest.files if f.path.endswith(WEIGHTS) and check == "all"]
    compare = functools.partial(_compare, folder, tell=tell)
    pool = ThreadPoolExecutor()
    try:
        # Other files come first: they are small and needed while weights are read.
        small, large = pool.map(compare, others), pool.map(compare, weights)
        list(small)

        def finish() -> None:
            list(large)

        yield finish
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _compare_names(folder: Path, manifest: Manifest) -> None:
    listed_files = {file.path: file for file in manifest.files}
    paths = set(walk(folder))
    for path in sorted(listed_files.keys() - paths):
        raise BundleError(f"{folder / path}: is missing")
    for path in sorted(paths - listed_files.keys() - {NAME, SIGNATURE}):
        raise BundleError(f"{folder / path}: {_unlisted(folder, path)}")
    for path, file in listed_files.items():
        count = (folder / path).stat().st_size
        if count != file.size:
            raise BundleError(f"{folder / path}: has {count} bytes, not {file.size}")


def _unlisted(folder: Path, path: str) -> str:
    """What a file is that the manifest does not list, and what to do about it."""
    pattern = _litter(path)
    if pattern is None:
        return "is not in the manifest; a bundle holds nothing else"
    return (
        f"is a file that {LITTER[pattern]} and is no part of the bundle; remove all of them with: "
        f"find {shlex.quote(str(folder))} -type f -iname {shlex.quote(pattern)} -delete"
    )


def _litter(path: str) -> str | None:
    """The pattern of other programs' files that a path has; None if it has none."""
    name = path.rpartition("/")[2].lower()
    return next((pattern for pattern in LITTER if fnmatch.fnmatch(name, pattern)), None)


def _compare(folder: Path, file: File, tell: Tell) -> None:
    digest = sha256(folder / file.path, tell)
    if digest != file.sha256:
        raise BundleError(
            f"{folder / file.path}: was altered: its SHA-256 is {digest[:12]}…, "
            f"not {file.sha256[:12]}…"
        )


def sha256(path: Path, tell: Tell = _say_nothing) -> str:
    """The SHA-256 of a file; `tell` is given the size of each piece that was read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            if path.stat().st_size:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                    _update(digest, mapped, tell)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read: {error}") from error
    return digest.hexdigest()


def _update(digest: Any, mapped: mmap.mmap, tell: Tell) -> None:
    # Mapped and in large pieces: a hashing thread lets others run only between pieces.
    with memoryview(mapped) as view:
        for start in range(0, len(view), _PIECE):
            with view[start : start + _PIECE] as piece:
                digest.update(piece)
                tell(len(piece))


def walk(folder: Path) -> Iterator[str]:
    """The plain files in a folder, as relative paths. Links and devices are refused."""
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
