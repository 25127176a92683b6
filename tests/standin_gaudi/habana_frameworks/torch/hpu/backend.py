"""`hpu_backend` for torch.compile: counts a compilation, and runs what it was given."""

import torch

from habana_frameworks.torch import standin


def register():
    if "hpu_backend" not in torch._dynamo.list_backends():
        torch._dynamo.register_backend(_compile, name="hpu_backend")


def _compile(module, inputs):
    lines = [f"{n.op} {n.target} {n.meta.get('example_value', '')}" for n in module.graph.nodes]
    standin.compile_graph(lines)
    return module.forward
