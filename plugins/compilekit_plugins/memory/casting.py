"""Layerwise casting: weights stored in a small dtype, and cast for each call of their layer."""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import compilekit as ck
from compilekit.model import float_dtype
from compilekit_plugins.diffusers_internals import KEPT_IN_FLOAT32, also_uncast
from compilekit_plugins.memory.hooks import CASTS, hooked, plain_errors, refuse_offloaded

if TYPE_CHECKING:
    from compilekit.model import Model
    from compilekit_plugins.memory import Layerwise

KINDS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
    nn.Embedding,
)
"""The layers that diffusers casts at all."""


def cast(model: Model, options: Layerwise, context: ck.StepContext) -> ck.StepResult:
    """Let diffusers store the layers of each component smaller, and say why others stay."""
    storage: torch.dtype = getattr(torch, options.storage)
    matched: dict[str, list[str]] = {}
    skipped: dict[str, str] = {}
    for name in context.components:
        module = model.module(name)
        where = f"{context.step.key}: {name}"
        refuse_offloaded(module, where)
        dtype = _compute(module, options, where)
        if dtype is None or dtype == storage:
            why = f"its weights are {options.storage} already"
            skipped[name] = why if dtype else "it has no floating weights"
            continue
        stays = _stays(module, options)
        with plain_errors(where):
            # As diffusers reads patterns, each means one module.
            _apply(module, storage, dtype, tuple(f"^{re.escape(path)}$" for path in stays))
        matched[name] = list(hooked(module, CASTS))
        skipped |= {
            f"{name}.{path}": _reason(path, stays)
            for path, part in module.named_modules()
            if isinstance(part, KINDS) and path not in matched[name]
        }
    return ck.StepResult(matched=matched, changed=matched, skipped=skipped)


def _compute(module: nn.Module, options: Layerwise, where: str) -> torch.dtype | None:
    """The dtype that the module computes in, which is all that its layers can be cast to."""
    if hooked(module, CASTS):
        raise ck.StepError(f"{where}: its layers are cast already; leave the step out")
    dtype = float_dtype(module)
    shown = str(dtype).removeprefix("torch.")
    if dtype is not None and options.compute not in (None, shown):
        raise ck.StepError(
            f"{where}: layers that are left alone compute in {shown}, and so must the others: "
            f"leave `compute` out, or put `precision: {{dtype: {options.compute}}}` before the step"
        )
    return dtype


def _stays(module: nn.Module, options: Layerwise) -> dict[str, str]:
    """The modules that stay as they are, beside those that diffusers leaves alone, and why."""
    first = next(tensor for tensor in module.parameters() if tensor.is_floating_point())
    reasons: dict[str, str] = {}
    for path, part in module.named_modules(remove_duplicate=False):
        tensors = list(part.parameters(recurse=False))
        pattern = next((p for p in options.exclude if fnmatch.fnmatchcase(path, p)), None)
        if pattern is not None:
            reasons[path] = f'`exclude` has "{pattern}"'
        elif any(hasattr(tensor, "__tensor_flatten__") for tensor in tensors):
            reasons[path] = "it is quantised"
        elif not _casts_itself(module) and any(tensor is first for tensor in tensors):
            reasons[path] = "pipelines take the dtype of its weight for that of the component"
    return reasons


def _reason(path: str, stays: dict[str, str]) -> str:
    """Why a layer stays: its own reason, or that of a module around it."""
    parts = path.split(".")
    around = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((stays[part] for part in around if part in stays), "diffusers leaves it as it is")


def _casts_itself(module: nn.Module) -> bool:
    """Whether it is a model of diffusers, which knows that its `dtype` is what it computes in."""
    return hasattr(module, "enable_layerwise_casting")


def _apply(
    module: Any, storage: torch.dtype, compute: torch.dtype, patterns: tuple[str, ...]
) -> None:
    from diffusers.hooks import apply_layerwise_casting
    from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN

    if _casts_itself(module):
        with also_uncast(module, patterns):
            module.enable_layerwise_casting(storage_dtype=storage, compute_dtype=compute)
        return
    float32 = [name for key in KEPT_IN_FLOAT32 for name in getattr(module, key, None) or ()]
    skip = (*DEFAULT_SKIP_MODULES_PATTERN, *float32, *patterns)
    apply_layerwise_casting(module, storage, compute, skip_modules_pattern=skip)
