"""The guard: what was warmed up is not compiled again, or it is said."""

from __future__ import annotations

import warnings
from typing import Literal

import compilekit as ck
from compilekit_plugins.gaudi.worker import driver


class Guard:
    """Compares the driver's count of compilations with what it was after the warm-up."""

    def __init__(self, key: str, policy: Literal["error", "warn", "allow"]) -> None:
        self.key = key
        self._policy = policy
        self._known: int | None = None
        self.again = 0

    @property
    def is_sealed(self) -> bool:
        """Whether the warm-up is over."""
        return self._known is not None

    def seal(self) -> None:
        """Take what has been compiled by now as all there is."""
        self._known = driver.compilations()

    def check(self, where: str) -> None:
        """Look whether something was compiled since, and do what the recipe says."""
        now = driver.compilations()
        if self._known is None or now is None or now <= self._known:
            return
        count = now - self._known
        self.again += count
        self._known = now
        message = (
            f"{self.key}: {count} graph{'s' * (count != 1)} compiled after the warm-up, in a call "
            f"of {where}: name its size in `shapes:`, or say `recompiles: warn`"
        )
        if self._policy == "error":
            raise ck.StepError(message)
        if self._policy == "warn":
            warnings.warn(message, stacklevel=2)
