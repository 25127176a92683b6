"""A compiled entry point: finds the part that serves a call, or says why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import torch

from compilekit.base import torch_internals
from compilekit.bundle.calls import Binder, Rebuilder, key_of, laid_out, leaves, named
from compilekit.bundle.loaded import Counts
from compilekit.bundle.manifest import Part
from compilekit.bundle.signature import RETURN_DICT, Signature, TensorArgument
from compilekit.errors import UncoveredCallError
from compilekit.load.seal import Seal

Runner = Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]]
OnUncovered = Literal["error", "eager"]

KEYS_KEPT = 256
ALIGNMENT = 16
"""Code for accelerators needs inputs aligned to this many bytes."""


@dataclass(frozen=True)
class Variant:
    """A loaded part, for the calls of one signature.

    as_dict, as_tuple: rebuild the result for `return_dict=True` and `False`; None if the entry
        point did not return such a result when the bundle was built.
    none_is_dict: whether `return_dict=None` means True.
    """

    signature: Signature
    run: Runner
    device: torch.device
    as_dict: Rebuilder | None
    as_tuple: Rebuilder | None = None
    none_is_dict: bool = True

    def result(self, call: Mapping[str, Any]) -> Any:
        """Run it on the leaves of a call."""
        tensors = self.signature.tensors
        inputs = [_ready(spec, call[spec.path], self.device) for spec in tensors]
        # The dtypes of compiled code are its own: autocast would change what it hands to kernels.
        with torch.autocast(self.device.type, enabled=False):
            outputs = self.run(inputs)
        rebuild = self.rebuilder(call)
        assert rebuild is not None  # noqa: S101 - the call was matched
        return rebuild(outputs)

    def rebuilder(self, call: Mapping[str, Any]) -> Rebuilder | None:
        """The rebuilder for the result that the caller wants."""
        wants_dict = call.get(RETURN_DICT)
        if wants_dict is None:
            wants_dict = self.none_is_dict
        return self.as_dict if wants_dict else self.as_tuple

    def misfit(self, call: Mapping[str, Any]) -> str:
        """Why the part does not serve a call; empty if it does."""
        fault = self.signature.misfit(named(call)) or self._elsewhere(call)
        if not fault and self.rebuilder(call) is None:
            return f"{RETURN_DICT}={call[RETURN_DICT]} was not there when it was built"
        return fault

    def _elsewhere(self, call: Mapping[str, Any]) -> str:
        """Whether a tensor is on another device of the same kind."""
        for tensor in self.signature.tensors:
            device = getattr(call[tensor.path], "device", self.device)
            if device.type == self.device.type and device != self.device and not tensor.is_small:
                return f"{tensor.path} is on {device}, not on {self.device}"
        return ""


def variant_of(part: Part, run: Runner, device: torch.device) -> Variant:
    """A loaded part, with its rebuilders."""
    as_dict, as_tuple = (
        None if output is None else Rebuilder(output) for output in (part.output, part.as_tuple)
    )
    return Variant(part.signature, run, device, as_dict, as_tuple, none_is_dict=part.none_is_dict)


@dataclass(eq=False, repr=False)
class CompiledEntry:
    """Replaces an entry point's Python function."""

    name: str
    binder: Binder
    variants: Sequence[Variant]
    _: KW_ONLY
    python: Callable[..., Any]
    has_python: bool = False
    seal: Seal | None = None
    on_uncovered: OnUncovered = "error"

    def __post_init__(self) -> None:
        self.counts = Counts()
        self._known: dict[tuple[Any, ...], Variant] = {}
        torch_internals.mark_original(self, self.python)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = leaves(self.binder.bind(args, kwargs))
        key = key_of(call)
        variant = self._known.get(key)
        if variant is None:
            reasons = [candidate.misfit(call) for candidate in self.variants]
            if all(reasons):
                return self._uncovered(reasons, args, kwargs)
            variant = self.variants[reasons.index("")]
            if len(self._known) >= KEYS_KEPT:
                self._known.clear()
            self._known[key] = variant
        if torch.is_grad_enabled() and any(
            isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in call.values()
        ):
            raise UncoveredCallError(
                f"{self.name}: compiled ahead of time it gives no gradients; call it under "
                "torch.no_grad()"
            )
        if self.seal is not None:
            self.seal.check()
        self.counts.compiled += 1
        return variant.result(call)

    def _uncovered(
        self, reasons: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        reason = reasons[0]
        self.counts.uncovered[reason] = self.counts.uncovered.get(reason, 0) + 1
        if self.on_uncovered == "eager" and self.has_python:
            self.counts.eager += 1
            return self.python(*args, **kwargs)
        covered = "\n".join(f"  {variant.signature}" for variant in self.variants)
        otherwise = 'or load with on_uncovered="eager".'
        if self.on_uncovered == "eager":
            otherwise = "for it cannot run eagerly: its weights are inside of compiled code."
        raise UncoveredCallError(
            f"{self.name}: {reason}, and the bundle has no part for that. It covers\n{covered}\n"
            f"Name the sizes under `shapes:` in the recipe and build again, {otherwise}"
        )


def _ready(spec: TensorArgument, leaf: Any, device: torch.device) -> torch.Tensor:
    """A tensor as the code expects it: small ones are cast and moved, others laid out."""
    if spec.is_small:
        where = device if spec.device == device.type else torch.device(spec.device)
        dtype = getattr(torch, spec.dtype)
        if not isinstance(leaf, torch.Tensor):
            return torch.tensor(leaf, dtype=dtype, device=where)
        leaf = leaf.to(where, dtype, non_blocking=True)
    if leaf.is_conj() or leaf.is_neg():
        # Lazy conjugates and negatives: only PyTorch's own code knows about them.
        leaf = leaf.resolve_conj().resolve_neg()
    ready: torch.Tensor = laid_out(leaf, spec.order)
    if ready.device.type != "cpu" and ready.data_ptr() % ALIGNMENT:
        return ready.clone(memory_format=torch.preserve_format)
    return ready
