"""What the tests of snapshots share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from compilekit.measure.snapshot import changes, look
from compilekit.steps import Change


class Net(nn.Module):
    """A module with a convolution, buffers, and a second method."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm1d(8)
        self.linear = nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(x))

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


def done_to(module: nn.Module, act: Callable[[], object]) -> dict[Change, list[str]]:
    """What a snapshot sees of something that is done to a module."""
    before = look(module)
    with torch.no_grad():
        act()
    return changes(before, look(module))
