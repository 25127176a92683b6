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
    dimensions = list(_dimensions(program, symbols))
    names: dict[Any, str] = {}
    scale: dict[str, Any] = {}
    for name, size, allowed in dimensions:
        free = [] if isinstance(size, int) else list(size.node.expr.free_symbols)
        if not free:
            raise ck.SymbolicShapeError(f"the code fixes {name} to {size}")
        expression = size.node.expr
        factor = expression / free[0]
        if len(free) != 1 or not factor.is_number:
            raise ck.SymbolicShapeError(f"the code wants {name} to be {expression}")
        symbol = free[0]
        ratio = factor / allowed.times
        if names.setdefault(symbol, allowed.symbol) != allowed.symbol or (
            scale.setdefault(allowed.symbol, (symbol, ratio)) != (symbol, ratio)
        ):
            raise ck.SymbolicShapeError(f"the code ties {name} to another size")
    _check_guards(dimensions, scale)


def _dimensions(
    program: torch.export.ExportedProgram, symbols: Sequence[Mapping[int, ck.Range]]
) -> Iterator[tuple[str, Any, ck.Range]]:
    inputs = set(program.graph_signature.user_inputs)
    nodes = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in inputs]
    for node, ranges in zip(nodes, symbols, strict=True):
        for dimension, allowed in ranges.items():
            size = node.meta["val"].shape[dimension]
            yield f"dimension {dimension} of {node.name}", size, allowed


def _check_guards(
    dimensions: Sequence[tuple[str, Any, ck.Range]], scale: Mapping[str, Any]
) -> None:
    if not dimensions:
        return
    guards = [guard.expr for guard in dimensions[0][1].node.shape_env.guards]
    ranges = {allowed.symbol: allowed for _, _, allowed in dimensions}
    values: list[Sequence[int]] = [
        range(-(-size.least // size.times), size.most // size.times + 1) for size in ranges.values()
    ]
    if math.prod(map(len, values)) > COMBINATIONS:
        values = [(numbers[0], numbers[-1]) for numbers in values]
    for combination in itertools.product(*values):
        sizes = {
            scale[name][0]: value / scale[name][1]
            for name, value in zip(ranges, combination, strict=True)
        }
        for guard in guards:
            if guard.free_symbols <= sizes.keys() and not bool(guard.subs(sizes)):
                raise ck.SymbolicShapeError(f"the code treats sizes apart: {guard}")
