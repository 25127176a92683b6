"""Short texts that many messages hold."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint at the known word that is most alike; empty if none is.

    >>> did_you_mean("chanel", ["channel", "layout"])
    ' Did you mean "channel"?'
    """
    by_lower = {name.lower(): name for name in known if name != word}
    near = get_close_matches(word.lower(), by_lower, n=1)
    if not near and len(word) > 1:
        near = sorted((name for name in by_lower if name.startswith(word.lower())), key=len)
    return f' Did you mean "{printable(by_lower[near[0]])}"?' if near else ""


def printable(text: str, keep: str = "") -> str:
    r"""A text without what would move a terminal's cursor: that is escaped, but for `keep`.

    >>> print(printable("a\x1b[31m name"))
    a\x1b[31m name
    """
    if text.isprintable():
        return text
    kept = (c if c.isprintable() or c in keep else _escaped(c) for c in text)
    return "".join(kept)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def summary(error: BaseException) -> str:
    """An error in a line.

    >>> summary(ValueError("no such word"))
    'ValueError: no such word'
    """
    return f"{type(error).__name__}: {error}"
