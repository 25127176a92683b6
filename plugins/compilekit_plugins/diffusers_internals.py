"""The private names of diffusers, accelerate and peft that the built-in plugins use. Not a step.

Light. Each has an answer for a release that lacks it, or is refused with a reason.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from compilekit_plugins.torch_internals import refuse

OLD_FORWARD = "_old_forward"
"""accelerate moves a forward there when it hooks a module."""
HOOK = "_hf_hook"
"""The attribute of a module that accelerate moves by itself."""
KEPT_IN_FLOAT32 = ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")
ADAPTERS = ("peft_config", "_hf_peft_config_loaded")
"""What diffusers and transformers go by when they save, load adapters and list them."""
LORA = ("scaling", "_active_adapter", "_disable_adapters")
"""Attributes of peft's layers that decide what a forward does, and are no tensors."""

_SKIPPED = "_skip_layerwise_casting_patterns"
_DISPATCH = "diffusers.models.attention_dispatch"


def hook_of(module: Any, kind: str) -> Any:
    """The hook of diffusers of one kind that a module has; None if it has none."""
    registry = getattr(module, "_diffusers_hook", None)
    return None if registry is None else registry.get_hook(kind)


def repeated_blocks(module: Any) -> list[str]:
    """The classes of the blocks that a model repeats, if its class names any."""
    return list(getattr(module, "_repeated_blocks", None) or [])


def attention_backend(layer: Any) -> str:
    """The attention kernel that is chosen on a layer's processor."""
    backend = getattr(getattr(layer, "processor", None), "_attention_backend", None)
    return str(getattr(backend, "value", backend))


def fused_processor(attention: Any) -> Any:
    """What computes attention from fused layers, where its own processor is not told of them."""
    name = type(getattr(attention, "processor", None)).__name__.removesuffix("2_0")
    module = importlib.import_module("diffusers.models.attention_processor")
    make = getattr(module, f"Fused{name}2_0", None)
    return make() if make and isinstance(attention, module.Attention) else None


@contextlib.contextmanager
def default_attention_kept() -> Iterator[None]:
    """Diffusers makes a component's backend that of all others too, for the whole process."""
    registry: Any = getattr(importlib.import_module(_DISPATCH), "_AttentionBackendRegistry", None)
    is_known = hasattr(registry, "_active_backend")
    refuse([] if is_known else ["_AttentionBackendRegistry._active_backend"], "diffusers")
    before = registry._active_backend
    try:
        yield
    finally:
        registry._active_backend = before


@contextlib.contextmanager
def also_uncast(module: Any, patterns: tuple[str, ...]) -> Iterator[None]:
    """Add to what the class does not cast: patterns that are passed would replace the defaults."""
    refuse([] if hasattr(module, _SKIPPED) else [f"ModelMixin.{_SKIPPED}"], "diffusers")
    before = getattr(module, _SKIPPED)
    is_set = _SKIPPED in vars(module)
    setattr(module, _SKIPPED, (*(before or ()), *patterns))
    try:
        yield
    finally:
        if is_set:
            setattr(module, _SKIPPED, before)
        else:
            delattr(module, _SKIPPED)


def dtype_keyword() -> str:
    """The name of the dtype in `from_pretrained`: newer releases warn about the old one."""
    from diffusers.utils import deprecation_utils

    return "dtype" if hasattr(deprecation_utils, "_resolve_dtype") else "torch_dtype"
