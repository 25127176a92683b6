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


def settings(
    model: Model, sample: Mapping[str, Any], shapes: Sequence[Mapping[str, int]]
) -> list[dict[str, Any]]:
    """The arguments of every run to capture. The complete sample comes first.

    The others have one denoising step. If a pipeline has classifier-free guidance, each size runs
    with guidance and without.
    """
    if not model.is_pipeline:
        return [sized(model, sample, changes) for changes in ({}, *shapes)]
    found: list[dict[str, Any]] = [dict(sample)]
    for changes in ({}, *shapes):
        guided = _guidances(model, sample, changes)
        found += [one_step(sized(model, sample, each)) for each in guided]
    return [found[0], *(each for i, each in enumerate(found[1:]) if each not in found[1 : i + 1])]


def _guidances(
    model: Model, sample: Mapping[str, Any], changes: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    yield changes
    if GUIDANCE in changes or not hasattr(type(model.subject), "do_classifier_free_guidance"):
        return
    guided = float(sample.get(GUIDANCE, SOME_GUIDANCE)) > NO_GUIDANCE
    yield {**changes, GUIDANCE: NO_GUIDANCE if guided else SOME_GUIDANCE}


def capture(
    entries: Sequence[EntryPoint],
    runs: Sequence[Mapping[str, Any]],
    run: Callable[[Mapping[str, Any]], Any],
) -> dict[str, list[Captured]]:
    """Run the sample in every setting; keep one call of each kind for every entry point."""
    kept: dict[str, dict[object, Captured]] = {entry.name: {} for entry in entries}
    with contextlib.ExitStack() as stack:
        for entry in entries:
            stack.enter_context(entry.standing_in(_keeper(entry, kept[entry.name])))
        for index, arguments in enumerate(runs):
            with _named("" if not index else f"shapes: {_shown(arguments)}: "):
                run(arguments)
    return {name: list(calls.values()) for name, calls in kept.items()}


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    try:
        yield
    except CompilekitError as error:
        if not where:
            raise
        raise ModelError(f"{where}{error}") from error


def _keeper(entry: EntryPoint, kept: dict[object, Captured]) -> Callable[..., Any]:
    function = entry.function
    parameters, takes_any = parameters_of(function)
    binder = Binder(entry.name, parameters, takes_any=takes_any)

    def keep(*args: Any, **kwargs: Any) -> Any:
        arguments = binder.bind(args, kwargs)
        found = leaves(arguments)
        key = key_of(found)
        if key not in kept:
            kept[key] = Captured(entry, with_leaves(arguments, _copied))
        return function(*args, **kwargs)

    return keep


def _copied(_: str, leaf: Any) -> Any:
    """A copy: the pipeline may write into the original later."""
    if isinstance(leaf, torch.Tensor):
        return leaf.detach().clone(memory_format=torch.preserve_format)
    return leaf


def _shown(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in arguments.items() if isinstance(v, int | float))
