"""`torchao_int8`: dynamic int8: weights stored as int8, activations quantised on the fly.

It pays when something compiles it afterwards; on CUDA, eager, it is many times slower than
what it replaces, so a recipe that ends with it there is refused.
"""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field

import compilekit as ck

if TYPE_CHECKING:
    import torch
    from torch import nn

    from compilekit.model import Model
    from compilekit.steps import Device

# The int8 matrix product of CUDA wants more rows than this; with fewer, nothing is gained.
CUDA_ROWS = 16


class TorchaoInt8(ck.Options):
    """Options of `torchao_int8`.

    min_features: leave layers alone whose input or output is narrower than this.
    min_rows: leave layers alone that multiply fewer rows than this in a call (time embeddings).
    include: only layers whose names match one of these patterns (`*` stands for anything).
    exclude: not those whose names match one of these.
    """

    min_features: int = Field(default=64, ge=1)
    min_rows: int = Field(default=CUDA_ROWS + 1, ge=1)
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()


def _effects(options: TorchaoInt8, device: Device) -> ck.Effects:
    del options
    return ck.effects(
        "weights",
        needs=["plain_linear_weights"],
        gives=["int8_weights"],
        removes=["plain_linear_weights", "stock_state_dict"],
        needs_later=["compiled"] if device == "cuda" else [],
    )


@ck.hookimpl
def describe() -> ck.StepDescription:
    """Say what the step is."""
    return ck.StepDescription(
        help="Quantise linear layers to dynamic int8 with torchao.",
        options=TorchaoInt8,
        effects=_effects,
        targets=frozenset({"cpu", "cuda"}),
        packages=("torchao",),
        extra="compilekit[torchao]",
        budget=0.1,
    )


@ck.hookimpl
def optimize_model(model: Model, options: TorchaoInt8, context: ck.StepContext) -> ck.StepResult:
    """Quantise the layers that pass the filters, and say why the others did not."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    # The default would set five flags of inductor for the whole process, and leave them set.
    config = Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
    matched: dict[str, list[str]] = {}
    skipped: dict[str, str] = {}
    for component in context.components:
        module = model.module(component)
        rows = _rows(module, component, context)
        chosen: dict[str, nn.Linear] = {}
        for name, layer in _linears(module):
            reason = _reason_to_skip(name, layer, rows.get(name), options)
            if reason:
                skipped[f"{component}.{name}"] = reason
            else:
                chosen[name] = layer
        context.progress(f"quantising {len(chosen)} layers of {component}")
        layers = set(chosen.values())
        quantize_(module, config, filter_fn=lambda layer, _, layers=layers: layer in layers)
        matched[component] = list(chosen)
    return ck.StepResult(matched=matched, changed=matched, skipped=skipped)


def _linears(module: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    from torch import nn

    for name, layer in module.named_modules():
        # Attention layers of torch reach into their output projection: it must stay plain.
        if (
            isinstance(layer, nn.Linear)
            and type(layer).__name__ != "NonDynamicallyQuantizableLinear"
        ):
            yield name, layer


def _reason_to_skip(name: str, layer: nn.Linear, rows: int | None, options: TorchaoInt8) -> str:
    """Why a layer stays as it is; empty if it does not."""
    if type(layer).__name__ == "NonDynamicallyQuantizableLinear":
        return "torch's attention layer reaches into its weight"
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
    if rows < options.min_rows:
        return f"{rows} rows a call, fewer than min_rows {options.min_rows}"
    return ""


def _rows(module: nn.Module, component: str, context: ck.StepContext) -> dict[str, int]:
    """The most rows that each linear layer multiplies in a recorded call."""
    rows: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        for name, layer in _linears(module):
            hook = layer.register_forward_pre_hook(_counter(rows, name), with_kwargs=True)
            stack.callback(hook.remove)
        context.replay(component)
    return rows


def _counter(rows: dict[str, int], name: str) -> Any:
    def count(_: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["input"]
        rows[name] = max(rows.get(name, 0), x.numel() // x.shape[-1])

    return count
