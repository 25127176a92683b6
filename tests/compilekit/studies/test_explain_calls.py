"""Who calls what, and how often, while the sample runs."""

from __future__ import annotations

import torch
from torch import nn

from compilekit.model import Model
from compilekit.studies.explain.calls import usage


class Nested(nn.Module):
    """Its forward calls its own `encode`, as the pipeline does too."""

    def encode(self, x):
        return x + 1

    def forward(self, x):
        return self.encode(x) + torch.nn.functional.linear(x, torch.eye(2))


class Pipeline:
    def __init__(self):
        self.components = {"net": Nested(), "idle": nn.Linear(2, 2)}

    def __call__(self):
        net = self.components["net"]
        return net.encode(net(torch.ones(1, 2))) + net(torch.ones(3, 2)).sum()


def test_calls_that_a_component_makes_of_itself_are_not_counted():
    model = Model(Pipeline())
    found, seconds = usage(model, lambda: model.run({}, 0))
    assert {name: (used.calls, len(used.ways)) for name, used in found.items()} == {
        "net": (2, 2),
        "net.encode": (1, 1),
    }
    assert 0 < sum(used.seconds for used in found.values()) < seconds
    assert "forward" not in vars(model.module("net"))
