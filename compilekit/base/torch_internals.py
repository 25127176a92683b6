"""The private names of torch that compilekit uses, in one place. Loads torch.

Each is probed when this file is imported, and those of the compiler before the first is needed, so
that a torch that lacks one is refused with a reason.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.compiler.config
from torch import nn

from compilekit.errors import MachineError

WRAPPED = "_orig_mod"
"""The child in which the module that `torch.compile(module)` wraps is kept."""

COMPILED_CALL = "_compiled_call_impl"
CONFIG = "_config"
"""The attribute of a config module of torch's that holds its entries."""

ORIGINAL = "_torchdynamo_orig_callable"
"""The attribute of a compiled callable that holds the Python function."""

_MODULE_NAMES = (
    "_parameters",
    "_buffers",
    "_modules",
    "_non_persistent_buffers_set",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_apply",
    COMPILED_CALL,
)


def _probe() -> None:
    module = nn.Module()
    lacks = [f"nn.Module.{name}" for name in _MODULE_NAMES if not hasattr(module, name)]
    if not hasattr(torch.Tensor, "_make_wrapper_subclass"):
        lacks.append("Tensor._make_wrapper_subclass")
    if not hasattr(torch.compiler.config, CONFIG):
        lacks.append(f"compiler.config.{CONFIG}")
    _refuse(lacks)


@functools.cache
def _probe_compiler() -> None:
    """Whether what `torch.compile` makes is told as such. Compiles nothing."""
    lacks = []
    if not hasattr(torch.compile(_probe, backend="eager"), ORIGINAL):
        lacks.append(f"{ORIGINAL} on compiled functions")
    if not hasattr(torch.compile(nn.Identity(), backend="eager"), WRAPPED):
        lacks.append(f"{WRAPPED} in compiled modules")
    _refuse(lacks)


def _refuse(lacks: Sequence[str]) -> None:
    if lacks:
        raise MachineError(
            f"torch {torch.__version__} has no {', '.join(lacks)}, which compilekit uses: install "
            "a torch that `pip install compilekit` accepts, or a newer compilekit"
        )


_probe()


def own_parameters(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters of a module itself; tied ones appear under each name."""
    return ((name, value) for name, value in module._parameters.items() if value is not None)


def own_buffers(module: nn.Module) -> Iterator[tuple[str, torch.Tensor, bool]]:
    """The buffers of a module itself, and whether a state dict holds them."""
    for name, value in module._buffers.items():
        if value is not None:
            yield name, value, name not in module._non_persistent_buffers_set


def tensor_tables(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tables that hold a module's parameters and buffers."""
    return module._parameters, module._buffers


def all_tables(module: nn.Module) -> tuple[dict[str, Any], ...]:
    """Every table that holds something of a module: tensors, children, attributes."""
    return module._parameters, module._buffers, module._modules, vars(module)


def hook_tables(module: nn.Module) -> tuple[Mapping[int, Any], Mapping[int, Any]]:
    """The tables of hooks around a module's forward."""
    return module._forward_pre_hooks, module._forward_hooks


def hooks_of(module: nn.Module) -> list[Any]:
    """The hooks around a module's forward."""
    return [hook for table in hook_tables(module) for hook in table.values()]


def is_wrapper(module: nn.Module) -> bool:
    """Whether `torch.compile(module)` made it."""
    _probe_compiler()
    return WRAPPED in module._modules


def replace_apply(module: nn.Module, function: Callable[..., nn.Module]) -> None:
    """Replace `Module._apply`, which `to`, `half` and the like call."""
    module._apply = function  # type: ignore[method-assign]


def compiled_call(module: nn.Module) -> Any:
    """What `Module.compile` made; None if the module is not compiled."""
    return module._compiled_call_impl


def drop_compiled_call(module: nn.Module) -> None:
    """Let a compiled module run its Python again."""
    module._compiled_call_impl = None


def original_of(function: object) -> Any:
    """The Python function of a compiled callable; None if the callable is not compiled."""
    if getattr(function, "_torchdynamo_disable", False):
        return None
    return getattr(function, ORIGINAL, None)


def mark_original(owner: Any, function: Callable[..., Any]) -> None:
    """Let tools that look for the Python function of a compiled callable find it."""
    setattr(owner, ORIGINAL, function)


def wrapper_tensor(
    kind: type[Any],
    shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    strides: Sequence[int] | None = None,
) -> Any:
    """A tensor of a subclass that has a shape and no storage."""
    return torch.Tensor._make_wrapper_subclass(
        kind, tuple(shape), strides, dtype=dtype, device=device
    )


NO_TORCH_FUNCTION: Any = torch._C._disabled_torch_function_impl
"""The `__torch_function__` of a subclass that handles operations below Python's functions."""


def writes(operation: Any) -> bool:
    """Whether an operation writes to its inputs."""
    return bool(operation._schema.is_mutable)


def config_entries(config: Any) -> Mapping[str, Any]:
    """The entries of a config module of torch's, by name."""
    entries: Mapping[str, Any] = getattr(config, CONFIG)
    return entries


def driver_version() -> str:
    """The newest CUDA that the driver supports, as torch sees it."""
    version = getattr(torch._C, "_cuda_getDriverVersion", None)
    return "" if version is None else "{}.{}".format(*divmod(version() // 10, 100))


def int8_matmul(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The product of two int8 matrices, in int32: what dynamic quantisation calls."""
    return torch._int_mm(one, other)
