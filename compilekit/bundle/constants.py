"""The tensors of a component: listed, stored in safetensors, and mapped without a copy.

Every tensor of a module is stored in its final form: parameters, buffers (also those that a state
dict leaves out), and tensors in plain attributes. A quantised weight is stored as the tensors
inside it, so reading it does not need the library that made it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from compilekit.base import torch_internals
from compilekit.bundle import manifest
from compilekit.bundle.calls import dense, laid_out, name_of, order_of
from compilekit.errors import BundleError

ALIGNMENT = 64
"""Tensors begin at multiples of this: vector instructions read aligned memory faster."""

PADDING = "__padding__"

_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "complex64": "C64",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}


@dataclass(frozen=True)
class Held:
    """A tensor of a module, and its row of the manifest."""

    row: manifest.Tensor
    tensor: torch.Tensor


def row_of(name: str, kind: str, tensor: torch.Tensor, **more: Any) -> manifest.Tensor:
    """The manifest's row for a tensor."""
    try:
        return manifest.Tensor(
            name=name,
            kind=kind,  # type: ignore[arg-type]
            dtype=name_of(tensor.dtype),  # type: ignore[arg-type]  # it is checked
            shape=tuple(tensor.shape),
            **{"order": order_of(tensor), **more},
        )
    except ValidationError as error:
        what = f"{name_of(tensor.dtype)}{list(tensor.shape)}"
        is_name = error.errors()[0]["loc"] == ("name",)
        why = "its name has a space or a slash" if is_name else manifest.first_fault(error)
        raise BundleError(f"{name} is {what}, which a bundle cannot hold: {why}") from error


def held_by(module: nn.Module) -> list[Held]:
    """Every tensor of a module; tensors that share memory share a key."""
    keys: dict[object, str] = {}
    return [
        held
        for name, kind, tensor, stays in _tensors(module)
        for held in _held(name, kind, tensor, keys, persistent=stays)
    ]


def _tensors(module: nn.Module) -> Iterator[tuple[str, str, torch.Tensor, bool]]:
    for path, owner in module.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for name, parameter in torch_internals.own_parameters(owner):
            yield f"{prefix}{name}", "parameter", parameter, True
        for name, buffer, persistent in torch_internals.own_buffers(owner):
            yield f"{prefix}{name}", "buffer", buffer, persistent
        for name, value in vars(owner).items():
            if isinstance(value, torch.Tensor):
                yield f"{prefix}{name}", "attribute", value, False


def is_quantised(tensor: torch.Tensor) -> bool:
    """Whether the tensor wraps several inner tensors."""
    return hasattr(tensor, "__tensor_flatten__")


def _held(
    name: str, kind: str, tensor: torch.Tensor, keys: dict[object, str], *, persistent: bool
) -> Iterator[Held]:
    inner: list[str] = []
    if is_quantised(tensor):
        for part in tensor.__tensor_flatten__()[0]:  # type: ignore[attr-defined]
            inner.append(f"{name}.{part}")
            yield from _held(inner[-1], "inner", getattr(tensor, part), keys, persistent=persistent)
    key = None if inner else keys.setdefault(identity(tensor), name)
    more: dict[str, Any] = {"order": tuple(range(tensor.dim()))} if inner else {}
    more |= {"key": key, "inner": tuple(inner), "persistent": persistent}
    yield Held(row_of(name, kind, tensor, **more), tensor)


def identity(tensor: torch.Tensor) -> object:
    """Equal for tensors that view the same memory in the same way."""
    if not tensor.numel():
        return id(tensor)
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device


def make_dense(module: nn.Module) -> None:
    """Remove gaps inside a module's tensors: compiled code has their strides built in."""
    for _, _, tensor, _ in _tensors(module):
        if not is_quantised(tensor) and tensor.stride() != dense(tensor.shape, order_of(tensor)):
            tensor.data = (
                tensor.data.contiguous()
                if 0 in tensor.stride()
                else laid_out(tensor.data, order_of(tensor))
            )


def save(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file tensor by tensor, without a second copy in memory."""
    header: dict[str, object] = {}
    at, padding = 0, itertools.count()
    for name, tensor in tensors.items():
        dtype = name_of(tensor.dtype)
        if dtype not in _NAMES:
            raise BundleError(f"{path.name}: {name} is {dtype}, which safetensors cannot hold")
        size = tensor.numel() * tensor.element_size()
        header[name] = _place(_NAMES[dtype], _outward(tensor).shape, at, size)
        at += size
        if gap := -at % ALIGNMENT:
            header[f"{PADDING}{next(padding)}"] = _place("U8", (gap,), at, gap)
            at += gap
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(bytes_of(tensor))
            file.write(b"\0" * (-file.tell() % ALIGNMENT))


def _place(dtype: str, shape: Collection[int], at: int, size: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}


def _outward(tensor: torch.Tensor) -> torch.Tensor:
    """A view with the dimensions in the order of memory."""
    return tensor.detach().permute(order_of(tensor))


def bytes_of(tensor: torch.Tensor) -> Any:
    """The values of a tensor in the order of memory, without gaps."""
    flat = _outward(tensor).contiguous().cpu().reshape(-1)
    # One value that was expanded has a step of zero, and counts as contiguous.
    stepped = flat.as_strided(flat.shape, (1,))
    return stepped.view(torch.uint8).numpy() if flat.numel() else b""


def read(path: Path, device: torch.device, *, copy: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of a file. On the CPU they are mapped, unless copied: read when they are used."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            names = [name for name in file.keys() if not name.startswith(PADDING)]  # noqa: SIM118
            tensors = {name: file.get_tensor(name) for name in names}
            return {n: t.clone() if copy and t.is_cpu else t for n, t in tensors.items()}
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path}: is no safetensors file: {error}") from error


def shaped(row: manifest.Tensor, stored: Mapping[str, torch.Tensor], where: str) -> torch.Tensor:
    """A stored tensor as the manifest describes it."""
    tensor = stored.get(row.key or "")
    if tensor is None:
        raise BundleError(f"{where}: {row.name}: its file has no {row.key}")
    shape = tuple(row.shape[dimension] for dimension in row.order)
    if tuple(tensor.shape) != shape or name_of(tensor.dtype) != row.dtype:
        raise BundleError(
            f"{where}: {row.name}: its file has {name_of(tensor.dtype)}{list(tensor.shape)}, "
            f"and the manifest {row.dtype}{list(shape)}"
        )
    return tensor.permute(sorted(range(len(row.order)), key=row.order.__getitem__))
