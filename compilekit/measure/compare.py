"""How far the outputs of a call are from reference outputs.

Outputs may be nested in any way that models nest them. Every tensor is compared with its
counterpart by itself, and the worst one speaks for the whole, so that a large tensor cannot
hide a small wrong one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from compilekit.errors import StepError

BARE = "output"
"""The name of a tensor that is the whole output."""

_CHUNK = 1 << 22
_OBJECT_DEPTH = 3
_DOUBLE_DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Difference:
    """How far outputs are from a reference; all figures are those of the worst tensor.

    relative_l2: ||actual - reference|| / ||reference||; for integers and booleans, the share of
        elements that differ. Infinite if the reference is all zeros and the output is not.
    cosine: of the angle between the two; for integers, the share of equal elements.
    max_abs: the largest difference of one element.
    finite: no tensor, on either side, holds NaN or infinity.
    where: the name of the worst tensor.
    """

    relative_l2: float
    cosine: float
    max_abs: float
    finite: bool
    where: str


def tensors_of(value: object) -> list[tuple[str, Tensor]]:
    """Every tensor in `value`, depth first, each with a name such as `sample` or `0.mean`."""
    return [(name or BARE, tensor) for name, tensor in _walk(value, "", (), 0)]


def compare(actual: object, reference: object) -> Difference:
    """Compare outputs with reference outputs, which may be of another device or dtype."""
    pairs = _pairs(tensors_of(actual), tensors_of(reference))
    return merge([_compare_tensors(*pair) for pair in pairs])


def merge(differences: Sequence[Difference]) -> Difference:
    """The worst of some differences, the first if several are equally bad."""
    return max(differences, key=lambda difference: (not difference.finite, difference.relative_l2))


def _walk(
    value: object, name: str, parents: tuple[int, ...], objects: int
) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
        return
    if id(value) in parents:
        return
    children = _parts(value)
    if children is None:
        if objects == _OBJECT_DEPTH:
            return
        children = _attributes(value)
        objects += 1
    for key, child in children.items():
        path = f"{name}.{key}" if name else str(key)
        yield from _walk(child, path, (*parents, id(value)), objects)


def _parts(value: object) -> Mapping[Any, object] | None:
    """What a container holds; None if the value is not a container."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, (list, tuple)):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    return None


def _attributes(value: object) -> Mapping[Any, object]:
    # A module or a function that an output refers to is not part of the output.
    if callable(value) or isinstance(value, ModuleType) or not hasattr(value, "__dict__"):
        return {}
    return vars(value)


def _pairs(
    actual: list[tuple[str, Tensor]], reference: list[tuple[str, Tensor]]
) -> list[tuple[str, Tensor, Tensor]]:
    if not actual and not reference:
        raise StepError("there is nothing to compare: neither output holds a tensor")
    if len(actual) != len(reference):
        raise StepError(
            f"the output holds {_shapes(actual)}, and the reference {_shapes(reference)}: "
            "they must hold the same tensors"
        )
    by_name = dict(actual)
    # One side may be a tuple and the other a dict of the same tensors: then the order pairs them.
    if by_name.keys() == dict(reference).keys() and len(by_name) == len(actual):
        actual = [(name, by_name[name]) for name, _ in reference]
    pairs = [(name, a, r) for (name, r), (_, a) in zip(reference, actual, strict=True)]
    for name, a, r in pairs:
        if a.shape != r.shape:
            raise StepError(
                f"{name}: the output's shape is {tuple(a.shape)}, and the reference's "
                f"{tuple(r.shape)}"
            )
        if a.is_complex() != r.is_complex():
            raise StepError(
                f"{name}: the output's dtype is {a.dtype}, and the reference's {r.dtype}"
            )
    if not any(r.numel() for _, _, r in pairs):
        raise StepError(
            f"there is nothing to compare: the output holds {_shapes(reference)}, all without "
            "elements"
        )
    return pairs


def _shapes(tensors: list[tuple[str, Tensor]]) -> str:
    if not tensors:
        return "no tensors"
    count = f"{len(tensors)} tensor{'s' if len(tensors) > 1 else ''}"
    return f"{count} ({', '.join(f'{name} {tuple(tensor.shape)}' for name, tensor in tensors)})"


def _compare_tensors(name: str, actual: Tensor, reference: Tensor) -> Difference:
    if not actual.numel():
        return Difference(0.0, 1.0, 0.0, finite=True, where=name)
    if not _is_inexact(actual) and not _is_inexact(reference):
        return _exact(name, actual, reference)
    device = actual.device if actual.device.type in _DOUBLE_DEVICES else torch.device("cpu")
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    max_abs = torch.zeros((), dtype=torch.float64, device=device)
    for a, r in zip(_chunks(actual, device), _chunks(reference, device), strict=True):
        gap = a - r
        sums += torch.stack([gap @ gap, a @ a, r @ r, a @ r])
        max_abs = torch.maximum(max_abs, gap.abs().max())
    gap_squared, a_squared, r_squared, product = sums.tolist()
    if not math.isfinite(a_squared) or not math.isfinite(r_squared):
        return Difference(math.inf, 0.0, math.inf, finite=False, where=name)
    error, size = math.sqrt(gap_squared), math.sqrt(r_squared)
    if error == 0:
        return Difference(0.0, 1.0, 0.0, finite=True, where=name)
    lengths = math.sqrt(a_squared) * size
    return Difference(
        relative_l2=error / size if size else math.inf,
        cosine=max(-1.0, min(1.0, product / lengths)) if lengths else 0.0,
        max_abs=max_abs.item(),
        finite=True,
        where=name,
    )


def _exact(name: str, actual: Tensor, reference: Tensor) -> Difference:
    actual, reference = actual.detach().cpu(), reference.detach().cpu()
    wrong = (actual != reference).sum().item() / actual.numel()
    max_abs = (actual.double() - reference.double()).abs().max().item()
    return Difference(wrong, 1.0 - wrong, max_abs, finite=True, where=name)


def _is_inexact(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _chunks(tensor: Tensor, device: torch.device) -> Iterator[Tensor]:
    """Pieces of a tensor in float64, so that a decoded video fits a second time."""
    flat = tensor.detach().reshape(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat.resolve_conj()).reshape(-1)
    for piece in torch.split(flat, _CHUNK):
        # Some devices lack float64, so the move comes first.
        yield piece.to(device).to(torch.float64)
