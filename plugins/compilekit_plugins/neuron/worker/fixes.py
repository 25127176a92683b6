"""What optimum-neuron 0.4.5 gets wrong, each mended in one small place.

A fix is a function that changes a class or a module of optimum-neuron. It is named, says what goes
wrong without it, and says from which release on upstream does without; there it is left out.
Some are needed while a model is exported, some while it runs, so both import this file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .packages import numbers, version

Patch = Callable[[], None]


@dataclass(frozen=True)
class Fix:
    """One thing that is mended.

    wrong: what happens without it.
    fixed_in: the release of optimum-neuron that does without; empty if none is known.
    """

    name: str
    when: str
    wrong: str
    patch: Patch
    fixed_in: str = ""

    def applies(self, installed: str) -> bool:
        """Whether a release of optimum-neuron needs it."""
        return not self.fixed_in or numbers(installed) < numbers(self.fixed_in)


FIXES: dict[str, Fix] = {}
DONE: set[str] = set()
"""What this process has mended."""


def fix(name: str, when: str, wrong: str, fixed_in: str = "") -> Callable[[Patch], Patch]:
    """Register a function as a fix, for the "export" or for the "load"."""

    def registered(patch: Patch) -> Patch:
        FIXES[name] = Fix(name, when, wrong, patch, fixed_in)
        return patch

    return registered


def mend(when: str, without: Iterable[str] = ()) -> list[str]:
    """Apply what the installed release needs; gives the names. Twice is as good as once."""
    from . import fixes_export, fixes_load  # noqa: F401 - they register themselves

    left = set(without)
    installed = version("optimum-neuron")
    done = []
    for each in FIXES.values():
        if each.when != when or each.name in left or not each.applies(installed):
            continue
        if each.name not in DONE:
            each.patch()
            DONE.add(each.name)
        done.append(each.name)
    return done


def replaced(owner: object, name: str, make: Callable[[Any], Any]) -> None:
    """Put something made of a function in its place; a static method stays one."""
    old = inspect.getattr_static(owner, name)
    if isinstance(old, staticmethod):
        setattr(owner, name, staticmethod(make(old.__func__)))
    else:
        setattr(owner, name, make(old))
