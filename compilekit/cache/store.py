"""Entries of the build cache: folders under a key, copied in and out, every digest compared.

Light: no torch. Anything may be killed at any time, so an entry gets its name when it is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compilekit.base.locks import NoLocksError, locked, try_lock
from compilekit.base.staging import NO_ROOM, staged, sweep
from compilekit.bundle.files import walk
from compilekit.bundle.manifest import File, first_fault
from compilekit.cache.entry import ENTRY, KINDS, Entry, Kind, read, write
from compilekit.cache.settings import DEFAULT_LIMIT, FOLDER
from compilekit.errors import CompilekitError, UsageError

FILES, INPUTS = "files", "inputs.json"
_PIECE = 1 << 22

_ELSEWHERE = f"name another folder in {FOLDER}, or build with --no-cache (cache=False)"
Note = Callable[[str], None]


class Cache:
    """The build cache in one folder. `note` is told, in words, what a user may want to know."""

    def __init__(self, folder: Path, limit: int = DEFAULT_LIMIT, note: Note | None = None) -> None:
        self.folder = folder
        self.limit = limit
        self.note: Note = note or (lambda _: None)

    @contextlib.contextmanager
    def working_on(self, kind: Kind, key: str, title: str) -> Iterator[None]:
        """Hold the right to make an entry: who wants the same one waits, and then finds it."""
        self._prepare()
        waiting = f"{title}: another process makes it just now; waiting"
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self._lock(kind, key), lambda: self.note(waiting)))
            except NoLocksError as error:
                raise self._lockless(error) from error
            yield

    def fetch(self, kind: Kind, key: str, destination: Path) -> Entry | None:
        """Copy an entry's files into a folder; None if it is not there, or is damaged."""
        path = self._path(kind, key)
        try:
            entry = read(path, kind, key)
            if entry is None:
                return None
            _copy_checked(path / FILES, destination, entry.files)
        except (OSError, ValueError) as error:
            _refuse_full(error, destination)
            self.note(f"a damaged entry of the cache is dropped ({error})")
            self.drop(kind, key)
            shutil.rmtree(destination, ignore_errors=True)
            return None
        with contextlib.suppress(OSError):  # a cache that can only be read is used all the same
            os.utime(path / ENTRY)
        return entry

    def store(
        self,
        kind: Kind,
        key: str,
        folders: Mapping[str, Path],
        *,
        title: str,
        seconds: float,
        data: Mapping[str, Any],
        inputs: Mapping[str, str],
    ) -> None:
        """Keep copies of folders, each below its name. A failure is noted and raises nothing.

        inputs: what the key was made of, by name; `compilekit cache why` compares them.
        """
        sources = {
            f"{name}/{path}".lstrip("/"): folder / path
            for name, folder in folders.items()
            for path in walk(folder)
        }
        if (size := sum(path.stat().st_size for path in sources.values())) > self.limit:
            self.note(f"{title} is not kept in the cache: {size} bytes are over its limit")
            return
        try:
            self._prepare()
            self.drop(kind, key)
            with staged(self._path(kind, key)) as target:
                files = _copied(sources, target / FILES)
                entry = Entry(
                    kind=kind, key=key, title=title, seconds=seconds, data=dict(data), files=files
                )
                write(entry, target)
                text = json.dumps(dict(inputs), indent=0)
                (target / INPUTS).write_text(text, encoding="utf-8")
            self.prune(spare=(kind, key))
        except (OSError, ValidationError, CompilekitError) as error:
            why = first_fault(error) if isinstance(error, ValidationError) else error
            self.note(f"{title} is not kept in the cache: {why}")

    def why(self, first: Entry, second: Entry) -> list[tuple[str, str, str]]:
        """The inputs of two keys that differ: their names, and what they were."""
        one, other = (self._inputs(entry) for entry in (first, second))
        names = dict.fromkeys((*one, *other))
        rows = [(name, one.get(name, "-"), other.get(name, "-")) for name in names]
        return [row for row in rows if row[1] != row[2]]

    def _inputs(self, entry: Entry) -> dict[str, str]:
        path = self._path(entry.kind, entry.key) / INPUTS
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise UsageError(
                f"{entry.key[:12]}: was made by an older compilekit, which kept no inputs"
            ) from None
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: cannot be read: {error}") from error
        if not isinstance(document, dict):
            raise UsageError(f"{path}: holds no mapping")
        return {str(name): str(value) for name, value in document.items()}

    def drop(self, kind: Kind, key: str) -> None:
        """Remove an entry, if it is there; what is half removed has no name."""
        path = self._path(kind, key)
        gone = path.with_name(f".{key}.gone-{os.getpid()}-{time.monotonic_ns()}")
        try:
            path.rename(gone)
        except OSError:
            return
        shutil.rmtree(gone, ignore_errors=True)

    def entries(self) -> list[tuple[Entry, float]]:
        """What is there, with the time when it was last used, the latest first."""
        entries = []
        for kind in KINDS:
            for path in self._entry_folders(kind):
                try:
                    entry = read(path, kind, path.name)
                    used = (path / ENTRY).stat().st_mtime
                except (OSError, ValueError):
                    entry, used = None, 0.0
                if entry is None:
                    self.drop(kind, path.name)
                else:
                    entries.append((entry, used))
        return sorted(entries, key=lambda entry: -entry[1])

    def prune(
        self,
        *,
        limit: int | None = None,
        unused_since: float = 0.0,
        spare: tuple[Kind, str] | None = None,
    ) -> list[Entry]:
        """Remove what was not used for longest until the rest fits; gives what was removed."""
        self._sweep()
        room = self.limit if limit is None else limit
        removed = []
        for entry, used in self.entries():
            room -= entry.size
            is_spared = (entry.kind, entry.key) == spare
            if (room < 0 or used < unused_since) and not is_spared and self._drop_idle(entry):
                removed.append(entry)
                room += entry.size
        return removed

    def _sweep(self) -> None:
        """Remove what killed processes have half written or half removed."""
        for kind in KINDS:
            sweep(self._home(kind))
            for gone in self._home(kind).glob(".*.gone-*"):
                shutil.rmtree(gone, ignore_errors=True)

    def _drop_idle(self, entry: Entry) -> bool:
        """Remove an entry that nobody is just making or copying."""
        try:
            lock = try_lock(self._lock(entry.kind, entry.key))
        except NoLocksError as error:
            raise self._lockless(error) from error
        if lock is None:
            return False
        try:
            self.drop(entry.kind, entry.key)
        finally:
            lock.release()
        return True

    def _lockless(self, error: NoLocksError) -> UsageError:
        return UsageError(
            f"{self.folder}: this file system has no locks that survive a killed process "
            f"({error}); {_ELSEWHERE}"
        )

    def _entry_folders(self, kind: Kind) -> list[Path]:
        try:
            return [path for path in self._home(kind).iterdir() if not path.name.startswith(".")]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UsageError(f"{self.folder}: cannot be read: {error.strerror}") from error

    def _home(self, kind: Kind) -> Path:
        return self.folder / f"{kind}s"

    def _path(self, kind: Kind, key: str) -> Path:
        return self._home(kind) / key

    def _lock(self, kind: Kind, key: str) -> Path:
        return self.folder / "locks" / f"{kind}-{key}.lock"

    def _prepare(self) -> None:
        try:
            # What lies here is run: nobody else may write to it.
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for name in ("locks", *(f"{kind}s" for kind in KINDS)):
                (self.folder / name).mkdir(exist_ok=True)
            tag = self.folder / "CACHEDIR.TAG"
            if not tag.exists():
                tag.write_text(_TAG, encoding="utf-8")
        except OSError as error:
            raise UsageError(
                f"{self.folder}: the build cache cannot be written there: {error.strerror}; "
                f"{_ELSEWHERE}"
            ) from error


_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n# This folder is a cache: backups leave it out.\n"
)


def _copied(sources: Mapping[str, Path], target: Path) -> tuple[File, ...]:
    """Copy files; gives their digests, of the bytes that were copied."""
    with ThreadPoolExecutor() as pool:
        return tuple(pool.map(lambda path: _copy(sources[path], target, path), sorted(sources)))


def _copy_checked(source: Path, target: Path, files: tuple[File, ...]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    if _copied({file.path: source / file.path for file in files}, target) != files:
        raise ValueError(f"{source} was altered")


def _copy(source: Path, target: Path, path: str) -> File:
    destination = target / path
    destination.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as read, destination.open("xb") as write:
        while piece := read.read(_PIECE):
            digest.update(piece)
            write.write(piece)
            size += len(piece)
    shutil.copymode(source, destination)
    return File(path=path, size=size, sha256=digest.hexdigest())


def _refuse_full(error: Exception, destination: Path) -> None:
    """That the bundle cannot be written is no fault of the cache."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        shutil.rmtree(destination, ignore_errors=True)
        raise error
