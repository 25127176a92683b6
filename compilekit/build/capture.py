"""The calls that a bundle must serve: those of the sample in every size.

They are captured beneath offload hooks and casts, where the compiled code will be.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from compilekit.bundle.calls import Binder, key_of, leaves, parameters_of, with_leaves
from compilekit.errors import CompilekitError, ModelError
from compilekit.subject.model import EntryPoint, Model
from compilekit.subject.sizes import one_step, sized

GUIDANCE = "guidance_scale"
NO_GUIDANCE, SOME_GUIDANCE = 1.0, 5.0


@dataclass(frozen=True)
class Captured:
    """One call of an entry point: its arguments by name."""

    entry: EntryPoint
    arguments: Mapping[str, Any]

    def again(self, **changes: Any) -> Any:
        """Make the call. It may write into its inputs, so each time gets copies."""
        return self.entry.function(**{**with_leaves(self.arguments, _copied), **changes})

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors among its leaves, by path."""
        every = leaves(self.arguments)
        return {path: leaf for path, leaf in every.items() if isinstance(leaf, torch.Tensor)}


def settings(
    model: Model, sample: Mapping[str, Any], shapes: Sequence[Mapping[str, int]]
) -> list[dict[str, Any]]:
    """The arguments of every run to capture. The complete sample comes first.

    The others have one denoising step. If a pipeline has classifier-free guidance, each size runs
    with guidance and without.
    """
    if not model.is_pipeline:
        return [sized(model, sample, changes) for changes in ({}, *shapes)]
    short: list[dict[str, Any]] = []
    for changes in ({}, *shapes):
        for guided in _guidances(model, sample, changes):
            arguments = one_step(model, sized(model, sample, guided))
            if arguments not in short:
                short.append(arguments)
    return [dict(sample), *short]


def _guidances(
    model: Model, sample: Mapping[str, Any], changes: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    yield changes
    # Stable Video Diffusion has guidance, and takes it under other names.
    has_guidance = hasattr(type(model.subject), "do_classifier_free_guidance")
    if GUIDANCE in changes or GUIDANCE not in model.parameters or not has_guidance:
        return
    guided = float(sample.get(GUIDANCE, SOME_GUIDANCE)) > NO_GUIDANCE
    yield {**changes, GUIDANCE: NO_GUIDANCE if guided else SOME_GUIDANCE}


def capture(
    entries: Sequence[EntryPoint],
    runs: Sequence[Mapping[str, Any]],
    run: Callable[[Mapping[str, Any]], Any],
) -> dict[str, list[Captured]]:
    """Run the sample in every setting; keep one call of each kind for every entry point."""
    calls: dict[str, dict[object, Captured]] = {entry.name: {} for entry in entries}
    with contextlib.ExitStack() as stack:
        for entry in entries:
            stack.enter_context(entry.standing_in(_keeper(entry, calls[entry.name])))
        for index, arguments in enumerate(runs):
            sizes = [f"{k}={v}" for k, v in arguments.items() if isinstance(v, int | float)]
            try:
                run(arguments)
            except CompilekitError as error:
                if not index:
                    raise
                raise ModelError(f"shapes: {', '.join(sizes)}: {error}") from error
    return {name: list(kinds.values()) for name, kinds in calls.items()}


def _keeper(entry: EntryPoint, calls: dict[object, Captured]) -> Callable[..., Any]:
    function = entry.function
    parameters, takes_any = parameters_of(function)
    binder = Binder(entry.name, parameters, takes_any=takes_any)

    def keep(*args: Any, **kwargs: Any) -> Any:
        arguments = binder.bind(args, kwargs)
        key = key_of(leaves(arguments))
        if key not in calls:
            calls[key] = Captured(entry, with_leaves(arguments, _copied))
        return function(*args, **kwargs)

    return keep


def _copied(_: str, leaf: Any) -> Any:
    """A copy: the pipeline may write into the original later."""
    if isinstance(leaf, torch.Tensor):
        return leaf.detach().clone(memory_format=torch.preserve_format)
    return leaf
