"""A compiled entry point: finds the part that serves a call, or says why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    says: whether `return_dict=None` means True.
    """

    signature: Signature
    run: Runner
    device: torch.device
    as_dict: Rebuilder | None
    as_tuple: Rebuilder | None = None
    says: bool = True

    def result(self, found: Mapping[str, Any]) -> Any:
        """Run it on the leaves of a call."""
        tensors = self.signature.tensors
        outputs = self.run([_ready(spec, found[spec.path], self.device) for spec in tensors])
        rebuild = self.rebuilder(found)
        assert rebuild is not None  # noqa: S101 - the call was matched
        return rebuild(outputs)

    def rebuilder(self, found: Mapping[str, Any]) -> Rebuilder | None:
        """The rebuilder for the result that the caller wants."""
        said = found.get(RETURN_DICT)
        return self.as_dict if (self.says if said is None else said) else self.as_tuple

    def misfit(self, found: Mapping[str, Any]) -> str:
        """Why the part does not serve a call; empty if it does."""
        fault = self.signature.misfit(named(found)) or self._elsewhere(found)
        if not fault and self.rebuilder(found) is None:
            return f"{RETURN_DICT}={found[RETURN_DICT]} was not there when it was built"
        return fault

    def _elsewhere(self, found: Mapping[str, Any]) -> str:
        """Whether a tensor is on another device of the same kind."""
        for tensor in self.signature.tensors:
            here = getattr(found[tensor.path], "device", self.device)
            if here.type == self.device.type and here != self.device and not tensor.is_small:
                return f"{tensor.path} is on {here}, not on {self.device}"
        return ""


def variant_of(part: Part, run: Runner, device: torch.device) -> Variant:
    """A loaded part, with its rebuilders."""
    as_dict, as_tuple = (
        None if output is None else Rebuilder(output) for output in (part.output, part.as_tuple)
    )
    return Variant(part.signature, run, device, as_dict, as_tuple, says=part.none_is_dict)


class CompiledEntry:
    """Replaces an entry point's Python function."""

    def __init__(
        self,
        name: str,
        binder: Binder,
        variants: Sequence[Variant],
        *,
        python: Callable[..., Any],
        has_python: bool = False,
        seal: Seal | None = None,
        on_uncovered: OnUncovered = "error",
    ) -> None:
        self.counts = Counts()
        self._name = name
        self._binder = binder
        self._variants = list(variants)
        self._has_python = has_python
        self._python = python
        torch_internals.mark_original(self, python)
        self._seal = seal
        self._on_uncovered = on_uncovered
        self._known: dict[tuple[Any, ...], Variant] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        found = leaves(self._binder.bind(args, kwargs))
        key = key_of(found)
        variant = self._known.get(key)
        if variant is None:
            reasons = [each.misfit(found) for each in self._variants]
            if all(reasons):
                return self._uncovered(reasons, args, kwargs)
            variant = self._variants[reasons.index("")]
            if len(self._known) >= KEYS_KEPT:
                self._known.clear()
            self._known[key] = variant
        if torch.is_grad_enabled() and any(
            isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in found.values()
        ):
            raise UncoveredCallError(
                f"{self._name}: compiled ahead of time it gives no gradients; call it under "
                "torch.no_grad()"
            )
        if self._seal is not None:
            self._seal.check()
        self.counts.compiled += 1
        return variant.result(found)

    def _uncovered(
        self, reasons: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        reason = reasons[0]
        self.counts.uncovered[reason] = self.counts.uncovered.get(reason, 0) + 1
        if self._on_uncovered == "eager" and self._has_python:
            self.counts.eager += 1
            return self._python(*args, **kwargs)
        covered = "\n".join(f"  {variant.signature}" for variant in self._variants)
        otherwise = 'or load with on_uncovered="eager".'
        if self._on_uncovered == "eager":
            otherwise = "for it cannot run eagerly: its weights are inside of compiled code."
        raise UncoveredCallError(
            f"{self._name}: {reason}, and the bundle has no part for that. It covers\n{covered}\n"
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
