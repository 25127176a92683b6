"""Offloading: whole components, single layers, or groups of them."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import compilekit as ck
from compilekit_plugins.memory.hooks import (
    GROUPS,
    accelerated,
    hooked,
    plain_errors,
    refuse_offloaded,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from compilekit.model import Model
    from compilekit_plugins.memory import Group

CPU = torch.device("cpu")


def whole(model: Model, kind: str, context: ck.StepContext) -> ck.StepResult:
    """Let accelerate move all of a pipeline: a component at a time, or a layer at a time."""
    key = context.step.key
    enable = getattr(model.subject, f"enable_{kind}_cpu_offload", None)
    if enable is None:
        owner = type(model.subject).__name__
        raise ck.StepError(f"{key}: a {owner} has no offload: {kind}; say `offload: group`")
    if set(context.components) != set(model.modules):
        raise ck.StepError(
            f"{key}: offload: {kind} works on the whole pipeline: leave `components` out, or say "
            "`offload: group`"
        )
    for name, module in model.modules.items():
        refuse_offloaded(module, f"{key}: {name}")
    with plain_errors(f"{key}: offload: {kind}"):
        enable(device=_device(model, context))
    moved = {name: accelerated(module) for name, module in model.modules.items()}
    result = _result({name: paths for name, paths in moved.items() if paths})
    result.skipped = {
        name: "its pipeline's class leaves it on the device"
        for name, paths in moved.items()
        if not paths
    }
    if kind == "sequential":
        why = "keeps its weights out of the modules, where saving looks for them"
        result.not_savable = dict.fromkeys(result.matched, why)
    return result


def by_group(model: Model, options: Group, context: ck.StepContext) -> ck.StepResult:
    """Let diffusers move groups of blocks, or single layers, of each component."""
    device = _device(model, context)
    moved, groups = {}, {}
    for name in context.components:
        module, where = model.module(name), f"{context.step.key}: {name}"
        refuse_offloaded(module, where)
        with plain_errors(where):
            folder = _own_folder(options.folder, name, module) if options.folder else None
            _group(module, options, device, folder)
        hooks = hooked(module, GROUPS)
        moved[name] = list(hooks)
        groups[name] = len({id(hook.group) for hook in hooks.values()})
    result = _result(moved)
    result.details = {"groups": groups, "waits": options.folder or "in the CPU's memory"}
    if options.folder:
        why = "keeps its weights in files, and what is in memory in their place means nothing"
        result.not_savable = dict.fromkeys(moved, why)
    return result


def _group(module: Any, options: Group, device: torch.device, folder: Path | None) -> None:
    from diffusers.hooks import apply_group_offloading

    arguments: dict[str, Any] = {
        "onload_device": device,
        "offload_device": CPU,
        "offload_type": f"{options.level}_level",
        "num_blocks_per_group": options.blocks if options.level == "block" else None,
        "use_stream": options.stream,
        "offload_to_disk_path": None if folder is None else str(folder),
    }
    if hasattr(module, "enable_group_offload"):
        module.enable_group_offload(**arguments)
    else:
        apply_group_offloading(module, **arguments)


def _own_folder(parent: str, name: str, module: nn.Module) -> Path:
    """A new folder, removed with the module: diffusers reads files that it finds there unseen.

    It names them after a component's layers alone, so those of another component, or of an earlier
    run with other weights, would stand in for these.
    """
    place = Path(parent).expanduser()
    place.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=place))
    weakref.finalize(module, shutil.rmtree, folder, ignore_errors=True)
    return folder


def _device(model: Model, context: ck.StepContext) -> torch.device:
    """The device that the model is on, with its index, which counts where there are several."""
    tensors: Iterable[torch.Tensor] = (t for m in model.modules.values() for t in m.parameters())
    kind = context.device
    return next((t.device for t in tensors if t.device.type == kind), torch.device(kind))


def _result(moved: dict[str, list[str]]) -> ck.StepResult:
    named = {name: [path or name for path in paths] for name, paths in moved.items()}
    return ck.StepResult(matched=named, changed=named)
