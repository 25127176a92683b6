"""How much slower a recipe may be: "5%", or a share. Light: no torch."""

from __future__ import annotations

import math

from compilekit.errors import UsageError


def share_of(text: str | float | None) -> float | None:
    """The share that "5%", "0.05" or 0.05 says; None where nothing is said.

    >>> share_of("5%"), share_of(0.05)
    (0.05, 0.05)
    """
    if text is None:
        return None
    number, percent = str(text).strip(), str(text).strip().endswith("%")
    try:
        value = float(number.removesuffix("%"))
    except ValueError:
        value = math.nan
    value = round(value / 100, 12) if percent else value
    if isinstance(text, bool) or not 0 <= value < (math.inf if percent else 1):
        raise UsageError(
            f'max_slowdown is "{text}": say how much longer the recipe may take, "5%" or 0.05'
        )
    return value
