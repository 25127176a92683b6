"""The seal of a loaded component: a change that compiled code would not see raises an error.

Compiled code reads the memory that it got when it was loaded. It sees edits in place. It does not
see a replaced parameter, another dtype, a new attention processor or an adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import is_
from typing import Any, NoReturn

import torch
from torch import nn

from compilekit.base import torch_internals
from compilekit.errors import SealedError
from compilekit.load.placeholder import Placeholder

UNSEEN = (
    "add_adapter",
    "load_adapter",
    "load_lora_adapter",
    "load_attn_procs",
    "set_adapter",
    "set_adapters",
    "enable_lora",
    "disable_lora",
    "fuse_lora",
    "unfuse_lora",
    "enable_lora_hotswap",
    "set_attn_processor",
    "set_default_attn_processor",
    "set_attention_backend",
    "set_attention_slice",
    "set_use_memory_efficient_attention_xformers",
    "fuse_qkv_projections",
    "unfuse_qkv_projections",
    "enable_freeu",
    "disable_freeu",
    "enable_tiling",
    "enable_slicing",
    "enable_cache",
    "enable_forward_chunking",
    "compile_repeated_blocks",
)
"""Methods of components whose effect compiled code does not see."""

UNSEEN_OF_PIPELINES = ("load_lora_weights", "load_ip_adapter", "set_ip_adapter_scale")
"""Methods of pipelines that fail halfway, before they reach such a component."""

PLAIN = (bool, int, float, str, type(None))
ADVICE = "apply it before the bundle is built, and build again"


class Seal:
    """Remembers a component as it was loaded, and says what changed since.

    It is checked on every call, so the check is one fast pass that compares identities.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        self._name = name
        self._module = module
        self._tables: list[dict[str, Any]] = []
        self._prefixes: list[str] = []
        self._looks: list[dict[str, Any]] = []
        self._values: list[Any] = []
        self._hooks: list[Any] = []
        self._tensors: dict[str, torch.Tensor] = {}
        self._places: list[int] = []

    def take(self) -> None:
        """Remember the state now, at the end of loading."""
        if hasattr(self._module, "cache_context"):
            # diffusers adds an empty registry of hooks in the first call: add it now.
            from diffusers.hooks import HookRegistry

            HookRegistry.check_if_exists_or_initialize(self._module)
        for path, module in self._module.named_modules():
            prefix = f"{path}." if path else ""
            for table in torch_internals.all_tables(module):
                self._tables.append(table)
                self._prefixes.append(prefix)
                self._looks.append(dict(table))
                self._values += table.values()
                self._tensors |= {
                    f"{prefix}{key}": value
                    for key, value in table.items()
                    if isinstance(value, torch.Tensor) and not isinstance(value, Placeholder)
                }
            if path:  # hooks of the component itself run all the same
                self._hooks += torch_internals.hook_tables(module)
        self._places = [tensor.data_ptr() for tensor in self._tensors.values()]
        self._count = sum(map(len, self._tables)), sum(map(len, self._hooks))

    def check(self) -> None:
        """Raise if the module changed in a way that compiled code does not see."""
        if (sum(map(len, self._tables)), sum(map(len, self._hooks))) != self._count or not all(
            map(is_, chain.from_iterable(map(dict.values, self._tables)), self._values)
        ):
            self._explain()
        if [tensor.data_ptr() for tensor in self._tensors.values()] != self._places:
            moved = zip(self._tensors.items(), self._places, strict=True)
            path = next(name for (name, t), place in moved if t.data_ptr() != place)
            raise SealedError(self._unseen(path, "was replaced"))

    def _explain(self) -> None:
        """Name the change. A setting with an equal value is no change."""
        for table, look, prefix in zip(self._tables, self._looks, self._prefixes, strict=True):
            for key in dict.fromkeys((*look, *table)):
                was, now = look.get(key), table.get(key)
                same = now is was or (
                    isinstance(was, PLAIN) and type(now) is type(was) and now == was
                )
                if not same and key == "training":
                    raise SealedError(
                        f"{(self._name + '.' + prefix).rstrip('.')} is in training mode, and "
                        "compiled code has no such mode; call `eval()` on it"
                    )
                if not same:
                    change = "was removed" if now is None else "was replaced"
                    raise SealedError(self._unseen(f"{prefix}{key}", change))
        if sum(map(len, self._hooks)) != self._count[1]:
            raise SealedError(self._unseen("forward", "has another hook inside"))

    def _unseen(self, path: str, change: str) -> str:
        return (
            f"{self._name}.{path} {change}, and compiled code does not see that; edit weights in "
            f"place (`with torch.no_grad(): weight.copy_(new)`), or {ADVICE}"
        )


def close(name: str, owner: Any, methods: Sequence[str] = UNSEEN) -> None:
    """Replace methods whose effect compiled code does not see by ones that raise."""
    for method in methods:
        if callable(getattr(owner, method, None)):
            setattr(owner, method, Closed(name, method))
    if isinstance(owner, nn.Module):
        torch_internals.replace_apply(owner, Moves(name, owner))


@dataclass(frozen=True, eq=False, repr=False)
class Closed:
    """Replaces a method that has no effect on compiled code."""

    name: str
    method: str

    def __call__(self, *_: object, **__: object) -> NoReturn:
        """Say why it has no effect."""
        raise SealedError(
            f"{self.name} came compiled out of a bundle, and {self.method} would not reach "
            f"compiled code; {ADVICE}"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Moves:
    """Replaces `Module._apply`, which `to` and `half` call: it accepts only no-ops."""

    name: str
    module: nn.Module

    def __call__(
        self, function: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True
    ) -> nn.Module:
        """Accept a call that keeps dtype and device."""
        del recurse
        tensors = (*self.module.parameters(), *self.module.buffers())
        for dtype, device in {(tensor.dtype, tensor.device) for tensor in tensors}:
            probe = torch.empty(1, dtype=dtype, device=device)
            moved = function(probe)
            if (moved.dtype, moved.device) != (probe.dtype, probe.device):
                raise SealedError(
                    f"{self.name} came compiled out of a bundle as {dtype} on {device}, and "
                    f"cannot become {moved.dtype} on {moved.device}; name the dtype in the recipe "
                    "(`precision`), and the device when the bundle is loaded"
                )
        return self.module


@dataclass(frozen=True, eq=False, repr=False)
class PipelineMoves:
    """Replaces a pipeline's `to`: checks all sealed components before it moves the first."""

    move: Callable[..., Any]
    sealed: Sequence[nn.Module]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Move the pipeline, or raise with nothing moved."""
        target = {key: value for key, value in kwargs.items() if key in ("dtype", "device")}
        target |= {"dtype": kwargs["torch_dtype"]} if "torch_dtype" in kwargs else {}
        for module in self.sealed:
            module.to(*args, **target)
        return self.move(*args, **kwargs)
