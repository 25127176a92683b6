"""`attention`: which kernels compute attention, and how much memory they may take.

torch's kernels are chosen for the whole process, so that all of the pipeline's run uses them, and
whoever compiles later as well. diffusers' backends are chosen for each component.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

import compilekit as ck
from compilekit_plugins import diffusers_internals

if TYPE_CHECKING:
    from compilekit.model import Model
    from compilekit.steps import Device, Purpose

Kernel = Literal["flash", "efficient", "math", "cudnn"]

SWITCHES: dict[Kernel, str] = {
    "flash": "enable_flash_sdp",
    "efficient": "enable_mem_efficient_sdp",
    "math": "enable_math_sdp",
    "cudnn": "enable_cudnn_sdp",
}
ON_CPU = ("flash", "math")
SETTINGS = "torch.backends.cuda.*_sdp_enabled"


class Attention(ck.Options):
    """Options of `attention`.

    sdpa: the kernels that torch's scaled dot product attention may use, in the whole process;
        where several are named, torch chooses. It stays so after the run; the report says so.
    backend: one of diffusers' attention backends, by name, for the components.
    slicing: compute attention in slices: "auto" for two, "max" for one head at a time, or the
        size of a slice. It takes less memory and more time.
    vae: let the VAE work image by image ("slicing"), and tile by tile ("tiling").
    """

    sdpa: tuple[Kernel, ...] = ()
    backend: str = ""
    slicing: Literal["auto", "max"] | int | None = None
    vae: tuple[Literal["slicing", "tiling"], ...] = ()

    @model_validator(mode="after")
    def _says_something(self) -> Attention:
        if not (self.sdpa or self.backend or self.slicing or self.vae):
            raise ValueError("say which `sdpa` kernels, `backend`, `slicing` or `vae`")
        if isinstance(self.slicing, int) and self.slicing < 1:
            raise ValueError("slicing: a slice has at least one head")
        return self


def _effects(options: Attention, device: Device) -> ck.Effects:
    del device
    # Slices are computed by processors of another class; compiled code sees none of it later.
    if options.slicing:
        # The processors that slice look for the separate projections.
        conflicts = ["compiled", "fused_qkv", "sliced_attention"]
        return ck.effects("runtime", "structure", gives=["sliced_attention"], conflicts=conflicts)
    return ck.effects("runtime", conflicts=["compiled"] if options.sdpa or options.backend else [])


def _check(options: Attention, device: Device, purpose: Purpose) -> Iterable[str]:
    del purpose
    wrong = [kernel for kernel in options.sdpa if device == "cpu" and kernel not in ON_CPU]
    if wrong:
        yield f'sdpa: the target "cpu" has no kernel "{wrong[0]}", only {" and ".join(ON_CPU)}'
    if options.backend and options.slicing:
        yield "slicing has kernels of its own: leave `backend` or `slicing` out"


@ck.hookimpl
def describe() -> ck.StepDescription:
    """Say what the step is."""
    return ck.StepDescription(
        help="Choose attention kernels; slice attention, slice and tile the VAE.",
        options=Attention,
        effects=_effects,
        check=_check,
        components="optional",
        budget=1e-2,
    )


@ck.hookimpl
def optimize_model(model: Model, options: Attention, context: ck.StepContext) -> ck.StepResult:
    """Set what the options say, on whatever of the components has it."""
    import torch

    matched: dict[str, list[str]] = {}
    skipped: dict[str, str] = {}
    if options.sdpa:
        for kernel, switch in SWITCHES.items():
            getattr(torch.backends.cuda, switch)(kernel in options.sdpa)
        matched["process"] = list(options.sdpa)
    for name in context.components:
        module: Any = model.module(name)
        changes = []
        if options.backend:
            changes += _dispatched(module, options.backend, context.step.key, name)
        if options.slicing and hasattr(module, "set_attention_slice"):
            module.set_attention_slice(options.slicing)
            changes.append(f"slices of {options.slicing}")
        changes += [kind for kind in options.vae if _enabled(module, kind)]
        if changes:
            matched[name] = changes
        elif not options.sdpa:
            skipped[name] = f"a {type(module).__name__} has nothing of what is asked"
    why = "the kernels of scaled dot product attention are a setting of the whole process"
    return ck.StepResult(
        matched=matched,
        changed=matched,
        skipped=skipped,
        kept_state={SETTINGS: why} if options.sdpa else {},
    )


def _dispatched(module: Any, backend: str, key: str, name: str) -> list[str]:
    """Choose a backend by name; diffusers leaves out, without a word, what cannot choose."""
    if not hasattr(module, "set_attention_backend"):
        return []
    with diffusers_internals.default_attention_kept():
        try:
            module.set_attention_backend(backend)
        except (ValueError, RuntimeError, ImportError, AttributeError) as error:
            raise ck.StepError(f"{key}: {name}: backend {backend}: {error}") from error
    return [
        path
        for path, layer in module.named_modules()
        if diffusers_internals.attention_backend(layer) == backend
    ]


def _enabled(module: Any, kind: str) -> bool:
    enable = getattr(module, f"enable_{kind}", None)
    if enable is None or not hasattr(module, "decode"):
        return False
    enable()
    return True
