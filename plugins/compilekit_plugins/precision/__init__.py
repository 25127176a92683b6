"""`precision`: the dtype of the weights, and TensorFloat-32 matrix products.

Without `components` the whole pipeline is cast, as `pipe.to(dtype)` does. With them, the
others keep their dtype, and inputs are cast where they enter a component of another dtype;
tensors leave in the dtype that the pipeline saw before.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

import compilekit as ck
from compilekit_plugins.diffusers_internals import KEPT_IN_FLOAT32

if TYPE_CHECKING:
    import torch

    from compilekit.model import Model
    from compilekit.steps import Device, Purpose

TF32_SETTINGS = (
    "torch.float32_matmul_precision",
    "torch.backends.*fp32_precision",
    "torch.backends.*allow_tf32",
)
"""One setting under all the names that torch has for it."""


class Precision(ck.Options):
    """Options of `precision`.

    dtype: cast the weights to this.
    tf32: let CUDA compute float32 matrix products in TensorFloat-32. It holds for the whole
        process and stays after the run; the report says so.
    """

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    tf32: bool | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Precision:
        if self.dtype is None and self.tf32 is None:
            raise ValueError("say which `dtype`, or `tf32: true`")
        return self


def _effects(options: Precision, device: Device) -> ck.Effects:
    del device
    if options.dtype is None:
        return ck.effects("runtime")
    # Weights that are cast for each call, or wait elsewhere, come back in the dtype that they had.
    before = ["cast_inside", "offloaded"]
    # Even without TensorFloat-32: casts at the door of a component are no part of its weights.
    return ck.effects("dtype", "runtime", conflicts=before)


def _check(options: Precision, device: Device, purpose: Purpose) -> Iterable[str]:
    del purpose
    if options.tf32 is not None and device != "cuda":
        yield f'tf32 is for the target "cuda", not "{device}"'


def _advice(options: Precision, device: Device, machine: ck.Machine) -> Iterable[str]:
    if options.dtype is None:
        return
    if device == "cpu" and (why := machine.why_slow(options.dtype)):
        yield why
    if device == "cuda" and options.dtype == "bfloat16":
        for gpu in machine.gpus:
            if gpu.before("8.0"):
                yield f"{gpu.name} has no instructions for bfloat16: float16 is faster there"


def _candidates(
    component: ck.ComponentFacts, device: Device, machine: ck.Machine
) -> Iterable[dict[str, str]]:
    """Smaller numbers, where the device computes with them."""
    if device == "cpu":
        fast = [
            n for n in ("bfloat16", "float16") if machine.computes(n) and not machine.why_slow(n)
        ]
    else:
        fast = ["bfloat16", "float16"]
    return [{"dtype": dtype} for dtype in fast if dtype != component.dtype]


@ck.hookimpl
def describe() -> ck.StepDescription:
    """Say what the step is."""
    return ck.StepDescription(
        help="Cast weights to bfloat16, float16 or float32; allow TensorFloat-32.",
        options=Precision,
        effects=_effects,
        check=_check,
        advice=_advice,
        candidates=_candidates,
        components="optional",
        budget=0.1,
    )


@ck.hookimpl
def optimize_model(model: Model, options: Precision, context: ck.StepContext) -> ck.StepResult:
    """Cast the components, and set the matrix product precision."""
    import torch

    result = ck.StepResult(matched={}, changed={})
    if options.dtype is not None:
        result = _cast(model, getattr(torch, options.dtype), context)
    if options.tf32 is not None:
        torch.set_float32_matmul_precision("high" if options.tf32 else "highest")
        setting = ["the process's float32 matrix product precision"]
        result.matched = {**result.matched, "process": setting}
        result.changed = {**result.changed, "process": setting}
        why = "TensorFloat-32 is a setting of the whole process"
        result.kept_state = dict.fromkeys(TF32_SETTINGS, why)
    return result


def _cast(model: Model, dtype: torch.dtype, context: ck.StepContext) -> ck.StepResult:
    components = context.components
    matched: dict[str, list[str]] = {}
    changed: dict[str, list[str]] = {}
    skipped: dict[str, str] = {}
    remembered = {}
    partial = model.is_pipeline and set(components) != set(model.modules)
    if partial:
        from compilekit_plugins.precision.door import cast_at_the_door

        inner = sorted(set(components) - set(model.modules))
        if inner:
            raise ck.StepError(f"precision: {inner[0]} is part of a component; name the whole one")
        known = context.remembered.get("dtypes", {})
        remembered = {"dtypes": cast_at_the_door(model, set(components), dtype, known)}
    # On a loaded bundle the weights have their dtype, and only the doors are to be put up.
    for name in components if context.purpose != "load" else ():
        module = model.module(name)
        float32 = _parts_in_float32(module, dtype)
        tensors = itertools.chain(module.named_parameters(), module.named_buffers())
        floats = {n: t for n, t in tensors if t.is_floating_point()}
        matched[name] = [n for n in floats if float32.isdisjoint(n.split("."))]
        changed[name] = [n for n in matched[name] if floats[n].dtype != dtype]
        for path in changed[name]:
            floats[path].data = floats[path].data.to(dtype)
        stays = floats.keys() - matched[name]
        skipped |= {f"{name}.{n}": "its class keeps it in float32" for n in floats if n in stays}
    why = "casts inputs where they enter, which a folder cannot say"
    return ck.StepResult(
        matched=matched,
        changed=changed,
        skipped=skipped,
        remembered=remembered,
        not_savable=dict.fromkeys(components, why) if partial else {},
    )


def _parts_in_float32(module: torch.nn.Module, dtype: torch.dtype) -> set[str]:
    """The parts that the model's class keeps in float32, as diffusers and transformers would."""
    import torch

    if dtype == torch.float32:
        return set()
    usual, strict = (set(getattr(module, name, None) or ()) for name in KEPT_IN_FLOAT32)
    # transformers keeps the first list for float16 alone; diffusers for both.
    is_transformers = type(module).__module__.startswith("transformers.")
    return strict if is_transformers and dtype != torch.float16 else strict | usual
