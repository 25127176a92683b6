"""`qkv_fusion`: one projection for queries, keys and values, in place of three.

diffusers keeps the three layers in memory beside the fused one; here they are freed. So it
cannot be undone in place, and a folder cannot hold the fused model.

diffusers fuses whole models, and its fused code leaves out what some of them compute, or does not
run. So each attention is tried by itself while the sample runs: its fused form must give the
output of each call. What does not is left as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import compilekit as ck
from compilekit_plugins import diffusers_internals, torch_internals

if TYPE_CHECKING:
    from compilekit.model import Model

FUSED_FROM = {
    "to_qkv": ("to_q", "to_k", "to_v"),
    "to_kv": ("to_k", "to_v"),
    "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
    "to_added_kv": ("add_k_proj", "add_v_proj"),
}
"""The fused layers of diffusers' attention, and the layers that each stands in for."""


class QkvFusion(ck.Options):
    """Has no options: it fuses every attention that the component can fuse."""


@ck.hookimpl
def describe() -> ck.StepDescription:
    """Say what the step is."""
    return ck.StepDescription(
        help="Fuse the query, key and value projections of attention into one.",
        options=QkvFusion,
        effects=lambda options, device: ck.effects(  # noqa: ARG005
            "structure",
            needs=["plain_linear_weights"],
            gives=["fused_qkv"],
            removes=["stock_state_dict"],
            # Fusing puts processors of its own in the place of those that slice.
            conflicts=["fused_qkv", "lora_layers", "quantised_weights", "sliced_attention"],
        ),
        candidates=lambda component, *_: [{}] if _has_attention(component) else [],
        budget=1e-4,
    )


def _has_attention(component: ck.ComponentFacts) -> bool:
    """Whether a layer is an attention as diffusers has them."""
    return any("Attention" in kind for kind in component.layers)


@ck.hookimpl
def optimize_model(model: Model, context: ck.StepContext) -> ck.StepResult:
    """Try each attention while the sample runs; fuse those that fit, and free their layers."""
    modules = {name: model.module(name) for name in context.components}
    attentions = {
        component: {
            name: layer
            for name, layer in module.named_modules()
            if hasattr(layer, "fuse_projections")
        }
        for component, module in modules.items()
    }
    matched, skipped = attentions, dict[str, str]()
    if context.purpose != "load":
        matched, skipped = _tried(attentions, context)
    elif known := context.remembered.get("fused"):
        matched = {c: {n: attentions[c][n] for n in known[c]} for c in attentions}
    for component, by_name in matched.items():
        for attention in by_name.values():
            _fuse(attention)
            attention.unfuse_projections = _cannot_undo
        if by_name:
            vars(modules[component])["unfuse_qkv_projections"] = _cannot_undo
        if not attentions[component]:
            kind = type(modules[component]).__name__
            skipped[component] = f"a {kind} cannot fuse its projections"
    names = {component: list(by_name) for component, by_name in matched.items()}
    return ck.StepResult(matched=names, changed=names, skipped=skipped, remembered={"fused": names})


def _tried(
    attentions: Mapping[str, Mapping[str, Any]], context: ck.StepContext
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The attentions whose fused form fits, and why the others are left alone."""
    budget = context.step.budget
    trials = {
        component: {name: _Trial(attention, budget) for name, attention in by_name.items()}
        for component, by_name in attentions.items()
    }
    with contextlib.ExitStack() as stack:
        for by_name in trials.values():
            for trial in by_name.values():
                stack.callback(trial.start().remove)
        if any(trials.values()):
            context.run(context.calls[0])
    fitting = {
        component: {name: by_name[name] for name, t in trials[component].items() if not t.reason}
        for component, by_name in attentions.items()
    }
    skipped = {
        f"{component}.{name}": trial.reason
        for component, by_name in trials.items()
        for name, trial in by_name.items()
        if trial.reason
    }
    return fitting, skipped


class _Trial:
    """One attention, and why it is left alone; no reason means that its fused form fits."""

    def __init__(self, attention: Any, budget: float) -> None:
        self.reason = "the sample does not call it"
        self._attention = attention
        self._budget = budget
        self._was_called = False
        self._processor = getattr(attention, "processor", None)

    def start(self) -> Any:
        """Try it at each call from now on; returns the handle that ends this."""
        return self._attention.register_forward_hook(self._try, with_kwargs=True)

    def _try(self, attention: Any, args: Any, kwargs: Any, output: Any) -> None:
        """Compute the output of a call again, with fused layers, and put everything back."""
        if self._was_called and self.reason:
            return
        self._was_called = True
        processor = getattr(attention, "processor", None)
        name = type(processor).__name__
        if processor is not self._processor:
            self.reason = f"the pipeline puts a {name} into it at each call"
            return
        children = dict(attention.named_children())
        was_fused = getattr(attention, "fused_projections", False)
        try:
            self.reason = _fuse(attention)
            if not self.reason:
                self.reason = _moved(attention.forward(*args, **kwargs), output, self._budget)
        except Exception as error:  # noqa: BLE001 - whatever it is, this one cannot be fused
            self.reason = f"its {name} cannot use fused layers: {_line(error)}"
        finally:
            for child, _ in list(attention.named_children()):
                delattr(attention, child)
            for child, layer in children.items():
                attention.add_module(child, layer)
            if processor is not None:
                attention.processor = processor
            attention.fused_projections = was_fused


def _fuse(attention: Any) -> str:
    """Fuse it, and free the layers that were fused; returns why it cannot be, if so."""
    if any(getattr(attention, name, None) is not None for name in FUSED_FROM):
        return "its projections are fused already"
    attention.fuse_projections()
    fused = [parts for name, parts in FUSED_FROM.items() if getattr(attention, name, None)]
    for part in {part for parts in fused for part in parts}:
        if getattr(attention, part, None) is not None:
            delattr(attention, part)
    if processor := diffusers_internals.fused_processor(attention):
        attention.set_processor(processor)
    return "" if fused else "its class fuses nothing"


def _moved(output: Any, expected: Any, budget: float) -> str:
    """Say how far an output is from the expected one, if further than rounding explains."""
    import torch

    flatten = torch_internals.pytree().tree_flatten
    for one, other in zip(flatten(output)[0], flatten(expected)[0], strict=True):
        if isinstance(other, torch.Tensor) and not torch.equal(one, other):
            moved = float((one.float() - other.float()).norm() / other.float().norm())
            if not moved <= max(budget, torch.finfo(other.dtype).eps):
                return f"its fused form moves its output by {moved:.2g}"
    return ""


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _cannot_undo() -> NoReturn:
    raise ck.StepError(
        "qkv_fusion freed the separate projections, so this model cannot be unfused: load it again"
    )
