"""A fix of optimum-neuron: a function that stands in for one of its own, and why it does."""

from __future__ import annotations

import functools
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .packages import numbers

Mended = Callable[..., Any]
"""Called in place of a function of upstream, which it gets as its first argument."""


@dataclass(frozen=True)
class Fix:
    """One thing that is mended.

    wrong: what happens without it.
    fixed_in: the release of optimum-neuron that does without; empty if none is known.
    """

    name: str
    when: str
    wrong: str
    patch: Callable[[], None]
    fixed_in: str = ""

    def applies(self, installed: str) -> bool:
        """Whether a release of optimum-neuron needs it."""
        return not self.fixed_in or numbers(installed) < numbers(self.fixed_in)


FIXES: dict[str, Fix] = {}


def fix(
    name: str, when: str, place: tuple[str, str], wrong: str, fixed_in: str = ""
) -> Callable[[Mended], Mended]:
    """Register a function as a fix, for the "export" or for the "load".

    place: the class ("package.module:Class") or module, and the name of the function in it.
    """

    def registered(mended: Mended) -> Mended:
        # However often it is called, it replaces once.
        patch = functools.cache(lambda: replace(*place, mended))
        FIXES[name] = Fix(name, when, wrong, patch, fixed_in)
        return mended

    return registered


def replace(owner: str, name: str, mended: Mended) -> None:
    """Put a function in the place of another; a static method stays one."""
    target = pkgutil.resolve_name(owner)
    old = inspect.getattr_static(target, name)
    is_static = isinstance(old, staticmethod)
    plain = old.__func__ if is_static else old

    @functools.wraps(plain)
    def call(*args: Any, **kwargs: Any) -> Any:
        return mended(plain, *args, **kwargs)

    setattr(target, name, staticmethod(call) if is_static else call)
