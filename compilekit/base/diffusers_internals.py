"""The private names of diffusers and accelerate that compilekit uses, in one place. Light.

Each has an answer for a release that lacks it.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

OLD_FORWARD = "_old_forward"
"""accelerate moves a forward there when it hooks a module."""

HOOK = "_hf_hook"
"""accelerate keeps there what moves a module's weights."""

_ORIGINS = frozenset({"_name_or_path", "name_or_path"})
"""Entries of a config that say where a model was loaded from."""

_UNORDERED = frozenset({"_use_default_values"})
"""Entries of a config that diffusers makes from a set: their order differs between processes."""


def canonical(config: Mapping[Any, Any]) -> dict[Any, Any]:
    """A config as it is in every process and wherever the model lies."""
    return {
        name: sorted(value, key=str) if name in _UNORDERED and isinstance(value, list) else value
        for name, value in config.items()
        if name not in _ORIGINS
    }


def is_hooked(module: Any) -> bool:
    """Whether accelerate moves the module's weights by itself."""
    return hasattr(module, HOOK)


def offloaded_weights(
    module: Any,
) -> dict[str, tuple[Any, Callable[[], Any] | None]]:
    """The weights that accelerate moves: the device to move each to, and how to read it there.

    None in place of the latter: the tensor itself is in memory.
    """
    weights: dict[str, tuple[Any, Callable[[], Any] | None]] = {}
    for path, part in module.named_modules():
        for hook in _hooks(getattr(part, HOOK, None)):
            device = getattr(hook, "execution_device", None)
            if device is None:
                continue
            stored = getattr(hook, "weights_map", None) or {}
            for name, _ in (*part.named_parameters(), *part.named_buffers()):
                read = functools.partial(stored.__getitem__, name) if name in stored else None
                full = f"{path}.{name}".lstrip(".")
                # The hook of a block moves it; that of a layer inside knows where a weight waits.
                if full not in weights or read is not None:
                    moved_to = weights.get(full, (_device(device), None))[0]
                    weights[full] = (moved_to, read)
    return weights


def _hooks(hook: Any) -> list[Any]:
    """A hook, or the several that it runs."""
    return [] if hook is None else list(getattr(hook, "hooks", [hook]))


def _device(device: Any) -> Any:
    from torch import device as kind

    return kind("cuda", device) if isinstance(device, int) else kind(device)


@contextlib.contextmanager
def unhooked(module: Any) -> Iterator[None]:
    """Let modules run without accelerate's hooks for a while."""
    hooked = [part for part in module.modules() if is_hooked(part)]
    before = [(vars(part).get("forward"), getattr(part, HOOK)) for part in hooked]
    for part in hooked:
        setattr(part, HOOK, None)
        if OLD_FORWARD in vars(part):
            part.forward = vars(part)[OLD_FORWARD]
    try:
        yield
    finally:
        for part, (forward, hook) in zip(hooked, before, strict=True):
            setattr(part, HOOK, hook)
            if forward is not None:
                part.forward = forward


def run_hook(module: Any) -> None:
    """Run the module's offload hook, as diffusers' own methods do before they start."""
    hook = getattr(module, HOOK, None)
    if hook is not None and hasattr(hook, "pre_forward"):
        hook.pre_forward(module)


def beneath_hook(function: Any) -> Callable[..., Any] | None:
    """The method that diffusers wraps in a function that first runs the offload hook."""
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    if not hasattr(function, "__wrapped__") and names == ("method",):
        # Older releases of diffusers leave no other way to it.
        method: Callable[..., Any] = function.__closure__[0].cell_contents
        return method
    return getattr(function, "__wrapped__", None)


def compute_dtype(module: Any) -> Any:
    """The dtype that layerwise casting computes in; None if the module does not cast."""
    hooks = getattr(module, "_diffusers_hook", None)
    get = getattr(hooks, "get_hook", None)
    casts = None if get is None else get("layerwise_casting")
    return getattr(casts, "compute_dtype", None)


def progress_bar_config(pipeline: Any) -> dict[str, Any] | None:
    """How a pipeline's progress bar is set; None if it is not set."""
    return getattr(pipeline, "_progress_bar_config", None)


def unset_progress_bar(pipeline: Any) -> None:
    """Make a pipeline's progress bar as if it had never been set."""
    vars(pipeline).pop("_progress_bar_config", None)


def lora_components(pipeline: Any, default: Collection[str]) -> set[str]:
    """The components that LoRA weights are loaded into."""
    return set(getattr(pipeline, "_lora_loadable_modules", default))


def attention_backend_of(processor: Any) -> Any:
    """The attention kernel that is chosen on a processor; None if none is."""
    return getattr(processor, "_attention_backend", None)


def active_attention_backend() -> str:
    """The attention kernel that diffusers uses if none is named."""
    dispatch = sys.modules.get("diffusers.models.attention_dispatch")
    registry = getattr(dispatch, "_AttentionBackendRegistry", None)
    return str(getattr(registry, "_active_backend", ""))


def dtype_keyword() -> str:
    """The name of the dtype in `from_pretrained`: newer releases warn about the old one."""
    from diffusers.utils import deprecation_utils

    return "dtype" if hasattr(deprecation_utils, "_resolve_dtype") else "torch_dtype"
