"""The guard: what was warmed up is not compiled again, or it is said."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import compilekit as ck
from compilekit_plugins.gaudi.worker import driver


class Guard:
    """Compares the driver's count of compilations before and after each call.

    Only calls count: other work of the process, another pipeline say, may compile what it likes.

    is_sealed: whether the warm-up is over.
    """

    def __init__(self, key: str, policy: Literal["error", "warn", "allow"]) -> None:
        self.key = key
        self._policy = policy
        self._before: int | None = None
        self.is_sealed = False
        self.again = 0

    def start(self) -> None:
        """A call begins; or something was compiled in it that was asked for."""
        self._before = driver.compilations() if self.is_sealed else None

    def check(self, where: str) -> None:
        """A call ends: look whether something was compiled, and do what the recipe says."""
        if self._before is None:
            return
        count = (driver.compilations() or 0) - self._before
        if count <= 0:
            return
        self.again += count
        message = (
            f"{self.key}: {count} graph{'s' * (count != 1)} compiled after the warm-up, in a call "
            f"of {where}: name its size in `shapes:`, or say `recompiles: warn`"
        )
        if self._policy == "error":
            raise ck.StepError(message)
        if self._policy == "warn":
            warnings.warn(message, stacklevel=2)


def watched(subject: Any, key: str, policy: Literal["error", "warn", "allow"]) -> Guard:
    """Let the calls of a warmed up pipeline of optimum-habana's be looked at; gives the guard."""
    guard = Guard(key, policy)
    guard.is_sealed = True

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        guard.start()
        yield
        guard.check("the pipeline")

    vars(subject)["_compilekit_around"] = around
    return guard
