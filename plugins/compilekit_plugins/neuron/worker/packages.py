"""The packages of this interpreter: what is there, what is a placeholder, what is missing."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
from pathlib import Path

SDK = ("torch-neuronx", "neuronx-cc", "libneuronxla", "neuronx-distributed")
"""AWS's packages. Their real ones come from AWS's own index."""

VENDOR = (*SDK, "optimum-neuron", "optimum", "diffusers", "transformers", "torch")

PLACEHOLDERS = {
    "torch-neuronx": ("1.0",),
    "neuronx-cc": ("1.0", "1.0.post1"),
    "libneuronxla": ("1.0",),
    "neuronx-distributed": ("0.1",),
}
"""What the public index has under these names: empty packages."""

KNOWN = ("0.4.5",)
"""The releases of optimum-neuron that all this was tried with."""


def version(name: str) -> str:
    """The installed version of a distribution; empty if it is not there."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def versions() -> dict[str, str]:
    """The versions of everything that matters."""
    return {name: version(name) for name in VENDOR}


def placeholders() -> list[str]:
    """The packages that are there in name only."""
    return [name for name, empty in PLACEHOLDERS.items() if version(name) in empty]


def torch_neuron() -> str:
    """What to say of TorchNeuron, which has torch-neuronx's name; empty if it is not here."""
    release = version("torch-neuronx")
    if not release or "torch-neuronx" in placeholders() or has_trace():
        return ""
    return (
        f"torch-neuronx {release} has no `trace`, with which optimum-neuron compiles: from 2.13 on "
        "it is TorchNeuron, which is for Trn2 and Trn3; make another environment, with 2.8"
    )


def has_trace() -> bool:
    """Whether the torch_neuronx here has `trace`. It is read: importing it changes the process."""
    spec = importlib.util.find_spec("torch_neuronx")
    if spec is None or spec.origin is None:
        return False
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.asname or alias.name for node in imports for alias in node.names}
    return "trace" in functions | names


def absent() -> list[str]:
    """The packages that are not there."""
    return [name for name in ("optimum-neuron", "diffusers", *SDK) if not version(name)]


def numbers(text: str) -> tuple[int, ...]:
    """The numbers of a version, to compare."""
    parts = text.partition("+")[0].split(".")
    return tuple(int(part) for part in parts if part.isdigit())
