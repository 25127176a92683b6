"""Short texts that many messages hold."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint at the known word that is most alike; empty if none is.

    >>> did_you_mean("chanel", ["channel", "layout"])
    ' Did you mean "channel"?'
    """
    near = get_close_matches(word, [name for name in known if name != word], n=1)
    return f' Did you mean "{near[0]}"?' if near else ""


def summary(error: BaseException) -> str:
    """An error in a line.

    >>> summary(ValueError("no such word"))
    'ValueError: no such word'
    """
    return f"{type(error).__name__}: {error}"
