"""Plain tables. Lines are as long as they are: they stay whole in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """A line for each row, with every column as wide as its widest cell.

    >>> aligned([("name", "size"), ("unet", "5 GB"), ("vae.decode", "99 MB")])
    ['name        size', 'unet        5 GB', 'vae.decode  99 MB']
    """
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
