"""Which linear layers to quantise, and why the others are left alone."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compilekit_plugins.torchao import Torchao
from compilekit_plugins.torchao.configs import unfit

if TYPE_CHECKING:
    import compilekit as ck


def chosen(
    module: nn.Module, component: str, options: Torchao, context: ck.StepContext
) -> tuple[dict[str, nn.Linear], dict[str, str]]:
    """The layers to quantise by their names in the component, and why the rest are not."""
    rows = _rows(module, component, context)
    adapters = _of_adapters(module)
    layers: dict[str, nn.Linear] = {}
    skipped: dict[str, str] = {}
    for name, layer in _linears(module):
        reason = (
            _untouchable(name, layer, adapters)
            or _filtered(name, layer, rows.get(name), options)
            or unfit(layer, options, context.device)
        )
        if reason:
            skipped[name] = reason
        else:
            layers[name] = layer
    return layers, skipped


def _linears(module: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            yield name, layer


def _untouchable(name: str, layer: nn.Linear, adapters: tuple[str, ...]) -> str:
    """Why a layer cannot be quantised, whatever the options say; empty if it can."""
    if type(layer).__name__ == "NonDynamicallyQuantizableLinear":
        return "torch's attention layer reaches into its weight"
    if name.startswith(adapters):
        return "it belongs to an adapter"
    kind = type(layer.weight)
    if kind is torch.Tensor:
        return "its weight is no parameter, but computed from others"
    if kind is not nn.Parameter:
        return f"it is quantised already ({kind.__name__})"
    if layer.weight.is_meta:
        return "its weight is not in memory (offloaded?)"
    return ""


def _of_adapters(module: nn.Module) -> tuple[str, ...]:
    """What the names of the layers begin with that adapters have put beside the model's own."""
    # LoRA and its like: each such layer of peft says which of its parts are adapters.
    return tuple(
        f"{name}.{part}."
        for name, layer in module.named_modules()
        for part in getattr(layer, "adapter_layer_names", ())
    )


def _filtered(name: str, layer: nn.Linear, rows: int | None, options: Torchao) -> str:
    """Which of the options leaves a layer out; empty if none does."""
    if not any(fnmatch.fnmatchcase(name, pattern) for pattern in options.include):
        return "no pattern of `include` matches it"
    for pattern in options.exclude:
        if fnmatch.fnmatchcase(name, pattern):
            return f'`exclude` has "{pattern}"'
    narrow = min(layer.in_features, layer.out_features)
    if narrow < options.min_features:
        return f"{narrow} features, fewer than min_features {options.min_features}"
    if rows is None:
        return "the sample never calls it"
    if rows < options.rows:
        return f"{rows} rows a call, fewer than min_rows {options.rows}"
    return ""


def _rows(module: nn.Module, component: str, context: ck.StepContext) -> dict[str, int]:
    """The most rows that each linear layer multiplies in a recorded call."""
    rows: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        for name, layer in _linears(module):
            counter = _counter(rows, name)
            stack.enter_context(layer.register_forward_pre_hook(counter, with_kwargs=True))
        context.replay(component)
    return rows


def _counter(rows: dict[str, int], name: str) -> Any:
    def count(_: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["input"]
        rows[name] = max(rows.get(name, 0), x.numel() // x.shape[-1])

    return count
