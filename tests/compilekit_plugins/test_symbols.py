"""Sizes that the code ties, fixes or treats apart are never made symbolic."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import compilekit as ck
from compilekit_plugins.torch_compile.aot import program_of


def size(least: int, most: int, symbol: str = "s0", times: int = 1) -> ck.Range:
    return ck.Range(least=least, most=most, symbol=symbol, times=times)


class Flat(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors):
        return (self.function(*tensors),)


def export(function, inputs, symbols):
    return program_of(Flat(function), tuple(inputs), tuple(symbols))


def test_a_batch_that_nothing_looks_at_is_symbolic():
    x, y = torch.ones(4, 3), torch.ones(4, 3)
    assert export(torch.add, [x, y], [{0: size(1, 4)}, {0: size(1, 4)}])


def test_sizes_in_proportion_are_symbolic():
    x, y = torch.ones(8, 3), torch.ones(4, 3)
    program = export(
        lambda x, y: x + torch.cat([y, y]), [x, y], [{0: size(2, 8, times=2)}, {0: size(1, 4)}]
    )
    assert program


@pytest.mark.parametrize(
    ("function", "inputs", "symbols", "message"),
    [
        (
            lambda x: x + torch.ones(4, 3),
            [torch.ones(4, 3)],
            [{0: size(2, 4)}],
            "the code fixes dimension 0 of tensors_0 to 4",
        ),
        (
            lambda x, y: x + y,
            [torch.ones(4, 3), torch.ones(4, 3)],
            [{0: size(2, 4)}, {0: size(2, 4, "s1")}],
            "the code ties dimension 0 of tensors_1 to another size",
        ),
        (
            lambda x, y: torch.cat([torch.ones(7, 3), x]) * y,
            [torch.ones(8, 3), torch.ones(15, 3)],
            [{0: size(4, 8)}, {0: size(11, 15, "s1")}],
            "the code wants dimension 0 of tensors_. to be",
        ),
        (
            lambda x: x * 2 if x.shape[0] == 4 else x,
            [torch.ones(6, 3)],
            [{0: size(2, 6)}],
            "the code treats sizes apart",
        ),
        (
            lambda x: x * 2 if x.shape[0] > 3 else x,
            [torch.ones(6, 3)],
            [{0: size(2, 6)}],
            "the code treats sizes apart",
        ),
    ],
    ids=["fixed", "tied", "shifted", "one size apart", "a threshold"],
)
def test_other_sizes_are_refused(function, inputs, symbols, message):
    with pytest.raises(ck.SymbolicShapeError, match=message):
        export(function, inputs, symbols)
