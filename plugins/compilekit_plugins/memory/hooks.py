"""The hooks of accelerate and of diffusers, by the names under which they are to be found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import compilekit as ck
from compilekit_plugins.diffusers_internals import HOOK, hook_of

if TYPE_CHECKING:
    from torch import nn

GROUPS, CASTS = "group_offloading", "layerwise_casting"


def accelerated(module: nn.Module) -> list[str]:
    """The modules inside that accelerate moves; the name of the outermost is empty."""
    return [path for path, part in module.named_modules() if hasattr(part, HOOK)]


def hooked(module: nn.Module, kind: str) -> dict[str, Any]:
    """The hooks of diffusers of one kind, by the names of the modules inside that have them."""
    parts = module.named_modules()
    return {path: hook for path, part in parts if (hook := hook_of(part, kind)) is not None}


def refuse_offloaded(module: nn.Module, where: str) -> None:
    """Hooks upon hooks: some raise, and some change nothing or undo others, without a word."""
    by = "accelerate" if accelerated(module) else "diffusers" if hooked(module, GROUPS) else ""
    if by:
        raise ck.StepError(
            f"{where}: it is offloaded already, by hooks of {by}: load the pipeline without them, "
            "or leave the step out"
        )


@contextlib.contextmanager
def plain_errors(where: str) -> Iterator[None]:
    """Say which step and component it was that diffusers, accelerate or the disk refused."""
    try:
        yield
    except (ValueError, RuntimeError, TypeError, ImportError, OSError) as error:
        raise ck.StepError(f"{where}: {error}") from error
