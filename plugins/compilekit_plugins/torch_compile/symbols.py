"""Whether an exported program really takes every size that its part is to serve.

torch.export finds out by itself which sizes depend on each other and which ones the code treats
apart, and notes it. Compiled code does not look: what is not so in every allowed size must be
refused here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import compilekit as ck

if TYPE_CHECKING:
    import torch

COMBINATIONS = 4096
"""The most sizes that guards are evaluated for; of more, the ends of each range."""


def check_symbols(
    program: torch.export.ExportedProgram, symbols: Sequence[Mapping[int, ck.Range]]
) -> None:
    """Raise `SymbolicShapeError` where the code fixes a size, ties sizes, or treats some apart."""
    found = list(_dimensions(program, symbols))
    own: dict[Any, str] = {}
    scale: dict[str, Any] = {}
    for name, size, wanted in found:
        free = [] if isinstance(size, int) else list(size.node.expr.free_symbols)
        if not free:
            raise ck.SymbolicShapeError(f"the code fixes {name} to {size}")
        expression = size.node.expr
        factor = expression / free[0]
        if len(free) != 1 or not factor.is_number:
            raise ck.SymbolicShapeError(f"the code wants {name} to be {expression}")
        symbol = free[0]
        ratio = factor / wanted.times
        if own.setdefault(symbol, wanted.symbol) != wanted.symbol or (
            scale.setdefault(wanted.symbol, (symbol, ratio)) != (symbol, ratio)
        ):
            raise ck.SymbolicShapeError(f"the code ties {name} to another size")
    _check_guards(found, scale)


def _dimensions(
    program: torch.export.ExportedProgram, symbols: Sequence[Mapping[int, ck.Range]]
) -> Iterator[tuple[str, Any, ck.Range]]:
    given = set(program.graph_signature.user_inputs)
    nodes = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in given]
    for node, wanted in zip(nodes, symbols, strict=True):
        for dimension, size in wanted.items():
            shape = node.meta["val"].shape
            yield f"dimension {dimension} of {node.name}", shape[dimension], size


def _check_guards(found: Sequence[tuple[str, Any, ck.Range]], scale: Mapping[str, Any]) -> None:
    if not found:
        return
    guards = [guard.expr for guard in found[0][1].node.shape_env.guards]
    ranges = {wanted.symbol: wanted for _, _, wanted in found}
    names = list(ranges)
    values = [_values(ranges[name]) for name in names]
    if math.prod(map(len, values)) > COMBINATIONS:
        values = [[each[0], each[-1]] for each in values]
    for combination in itertools.product(*values):
        sizes = {
            scale[name][0]: value / scale[name][1]
            for name, value in zip(names, combination, strict=True)
        }
        for guard in guards:
            if guard.free_symbols <= sizes.keys() and not bool(guard.subs(sizes)):
                raise ck.SymbolicShapeError(f"the code treats sizes apart: {guard}")


def _values(size: ck.Range) -> list[int]:
    """The values of a symbol."""
    first, last = -(-size.least // size.times), size.most // size.times
    return list(range(first, last + 1))
