"""Folders that are written beside their final place, and get their name when they are whole.

Light: no torch.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from compilekit.base.locks import NoLocksError, try_lock
from compilekit.errors import MachineError, UsageError

NO_ROOM = {
    errno.ENOSPC: "no space is left on the device",
    errno.EDQUOT: "no space is left on the device",
    errno.EFBIG: "a file became larger than the system allows",
}
CLAIM = ".claim"


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A folder that gets the target's name when all went well, and is removed otherwise."""
    with _writing(target):
        refuse_existing(target)
        parents = missing_parents(target)
    folder = target.parent / f".{target.name}.partial-{secrets.token_hex(4)}"
    try:
        with _writing(target):
            folder.parent.mkdir(parents=True, exist_ok=True)
            sweep(target.parent)
        with _in_use(folder):
            with _writing(target):
                folder.mkdir()
            yield folder
            refuse_existing(target)
            if target.is_dir():
                target.rmdir()
            _name(folder, target)
    except BaseException as error:
        remove_empty(parents)
        if lack := _lack(error):
            raise MachineError(f"{target}: {lack}; what was written there was removed") from error
        raise


@contextlib.contextmanager
def claimed(target: Path) -> Iterator[None]:
    """Hold a target's name from the start: a second process that wants it is refused at once."""
    with _writing(target):
        refuse_existing(target)
        parents = missing_parents(target)
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _claim(target):
            refuse_existing(target)
            yield
    finally:
        remove_empty(parents)


@contextlib.contextmanager
def _claim(target: Path) -> Iterator[None]:
    mark = target.parent / f".{target.name}{CLAIM}"
    try:
        lock = try_lock(mark)
    except NoLocksError:  # then the slower of two fails when it is done
        yield
        return
    if lock is None:
        raise UsageError(
            f"{target}: another process is writing it at this moment; name another place, or wait"
        )
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{target}: cannot write there: {error.strerror}") from error


def _name(folder: Path, target: Path) -> None:
    with _writing(target):
        try:
            folder.rename(target)
        except OSError:
            # Somebody else was there first, between our look and now.
            refuse_existing(target)
            raise


@contextlib.contextmanager
def _in_use(folder: Path) -> Iterator[None]:
    """Mark a folder as one that somebody is writing to, and remove it if it kept its name.

    A killed process marks nothing any more. The mark is there before the folder is.
    """
    mark = folder.with_name(f"{folder.name}.lock")
    try:
        lock = try_lock(mark)
    except NoLocksError:  # a read-only place, too: making the folder says so
        lock = None  # then what a killed build leaves is not swept away by the next one
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            mark.unlink(missing_ok=True)
            lock.release()


def sweep(folder: Path) -> None:
    """Remove what killed processes have left in a folder of targets."""
    for mark in (*folder.glob(".*.partial-*.lock"), *folder.glob(f".*{CLAIM}")):
        with contextlib.suppress(OSError):
            lock = try_lock(mark)
            if lock is not None:
                if mark.suffix != CLAIM:
                    shutil.rmtree(mark.with_suffix(""), ignore_errors=True)
                mark.unlink(missing_ok=True)
                lock.release()


def missing_parents(path: Path) -> list[Path]:
    """The folders around a path that are not there, the innermost first."""
    return [parent for parent in absolute(path).parents if not parent.exists()]


def absolute(path: Path) -> Path:
    """A path from the root."""
    try:
        return path.absolute()
    except FileNotFoundError as error:
        raise UsageError(
            f"{path}: the current folder was removed, so no path starts there: go to another"
        ) from error


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove those of some folders that are there and empty, the innermost first."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _lack(error: BaseException | None) -> str:
    """Which lack of room an error comes from, at first hand or not; empty if from none."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return NO_ROOM[error.errno]
        error = error.__cause__ or error.__context__
    return ""


def refuse_existing(target: Path) -> None:
    """A bundle is never written over something else; an empty folder is nothing."""
    if target.is_symlink() or (
        target.exists() and not (target.is_dir() and not any(target.iterdir()))
    ):
        raise UsageError(f"{target}: is there already; name another place, or remove it first")
