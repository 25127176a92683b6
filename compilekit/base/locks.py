"""File locks between processes. They are the system's own, so a killed holder lets go of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout


class NoLocksError(OSError):
    """The file system has no locks that survive a killed process."""


def try_lock(path: Path) -> BaseFileLock | None:
    """The lock, held; None if somebody else holds it."""
    lock = FileLock(path)
    return lock if _acquire(lock, timeout=0) else None


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a lock; `waiting` is called once if somebody else holds it now."""
    lock = FileLock(path)
    if not _acquire(lock, timeout=0):
        waiting()
        _acquire(lock, timeout=-1)
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: BaseFileLock, timeout: float) -> bool:
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        return False
    except (NotImplementedError, OSError) as error:
        raise NoLocksError(str(error)) from error
    if isinstance(lock, SoftFileLock):
        # What filelock falls back to would stay locked when its holder is killed.
        lock.release()
        raise NoLocksError("flock is not implemented")
    return True
