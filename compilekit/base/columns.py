"""Plain tables: on a terminal as wide as it is, and in a pipe with lines that stay whole."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from compilekit.base.streams import columns
from compilekit.base.texts import printable

GAP = 2
NARROWEST = 8


def aligned(rows: Iterable[Sequence[str]], indent: int = 0) -> list[str]:
    """The lines of a table, whose columns are as wide as their widest cells.

    Where a command shows it on a terminal, the widest columns but the first are wrapped.

    >>> aligned([("name", "size"), ("unet", "5 GB"), ("vae.decode", "99 MB")])
    ['name        size', 'unet        5 GB', 'vae.decode  99 MB']
    """
    return [line for lines in blocks(rows, indent) for line in lines]


def blocks(rows: Iterable[Sequence[str]], indent: int = 0) -> list[list[str]]:
    """The lines of each row of such a table: several where a cell is wrapped."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if (room := columns()) is not None:
        _narrow(widths, room - indent)
    return [[" " * indent + line for line in _lines(row, widths)] for row in cells]


def _narrow(widths: list[int], room: int) -> None:
    """Take from the widest columns until a table fits, or all are narrow."""
    excess = sum(widths) + GAP * (len(widths) - 1) - room
    for others in (range(1, len(widths)), range(len(widths))):  # the first has the names
        while excess > 0 and max((widths[i] for i in others), default=0) > NARROWEST:
            widths[max(others, key=widths.__getitem__)] -= 1
            excess -= 1


def _lines(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    wrapped = [
        [cell] if len(cell) <= width else textwrap.wrap(cell, width)
        for cell, width in zip(row, widths, strict=True)
    ]
    for parts in zip_longest(*wrapped, fillvalue=""):
        yield (" " * GAP).join(map(str.ljust, parts, widths)).rstrip()
