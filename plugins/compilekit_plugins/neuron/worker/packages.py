"""The packages of this interpreter: what is there, what is a placeholder, what is missing."""

from __future__ import annotations

import importlib.metadata

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


def absent() -> list[str]:
    """The packages that are not there."""
    return [name for name in ("optimum-neuron", "diffusers", *SDK) if not version(name)]


def numbers(text: str) -> tuple[int, ...]:
    """The numbers of a version, to compare."""
    parts = text.partition("+")[0].split(".")
    return tuple(int(part) for part in parts if part.isdigit())
