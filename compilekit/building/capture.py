"""The calls that a bundle must serve: the sample, and its other sizes, as entry points see them.

They are captured beneath offload hooks and casts, which is where compiled code will stand.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from compilekit.bundle.calls import Binder, key_of, leaves, parameters_of, with_leaves
from compilekit.errors import CompilekitError, ModelError
from compilekit.model import EntryPoint, Model

BATCH = "batch"
"""The key of `shapes` that stands for the number of prompts."""

GUIDANCE = "guidance_scale"
PROMPTS = ("prompt", "negative_prompt", "prompt_2", "prompt_3", "negative_prompt_2")
NO_GUIDANCE, SOME_GUIDANCE = 1.0, 5.0


@dataclass(frozen=True)
class Captured:
    """One call of an entry point: its arguments by name."""

    entry: EntryPoint
    arguments: Mapping[str, Any]


def settings(
    model: Model, sample: Mapping[str, Any], shapes: Sequence[Mapping[str, int]]
) -> list[dict[str, Any]]:
    """The arguments of every run to capture. The sample itself, in full, comes first.

    The others take one step. Where a pipeline has classifier-free guidance, each is run with it
    and without it.
    """
    if not model.is_pipeline:
        return [{}, *({BATCH: changes[BATCH]} for changes in shapes)]
    found: list[dict[str, Any]] = [dict(sample)]
    for changes in ({}, *shapes):
        for guided in _guidances(model, sample, changes):
            arguments = {**sample, **guided}
            batch = arguments.pop(BATCH, None)
            if batch is not None:
                arguments = _batched(arguments, int(batch))
            found.append(one_step(arguments))
    return [found[0], *(each for i, each in enumerate(found[1:]) if each not in found[1 : i + 1])]


def unknown_shapes(
    model: Model, shapes: Sequence[Mapping[str, int]]
) -> Iterator[tuple[int, str, str]]:
    """The entries of `shapes` that mean nothing for a model: where, the key, and why."""
    known = {BATCH}
    if model.is_pipeline:
        known |= set(inspect.signature(type(model.subject).__call__).parameters) - {"self"}
    for index, changes in enumerate(shapes):
        for key in changes:
            if key in known:
                continue
            near = difflib.get_close_matches(key, known, n=1)
            hint = f' Did you mean "{near[0]}"?' if near else ""
            owner = type(model.subject).__name__
            why = f"{owner} takes no such argument" if model.is_pipeline else "a module has only"
            yield index, key, f"{why}.{hint}" if model.is_pipeline else f'{why} "{BATCH}" here'


def resized(inputs: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """The inputs of a plain module for another number of entries: repeated, or fewer.

    The first input has one row for each entry; so have those of the same length.
    """
    rows = next((v.shape[0] for v in inputs.values() if getattr(v, "ndim", 0)), 0)

    def one(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.dim() or value.shape[0] != rows:
            return value
        indices = torch.arange(batch, device=value.device) % value.shape[0]
        return value.index_select(0, indices)

    return {name: one(value) for name, value in inputs.items()}


def _guidances(
    model: Model, sample: Mapping[str, Any], changes: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    yield changes
    if GUIDANCE in changes or not hasattr(type(model.subject), "do_classifier_free_guidance"):
        return
    guided = float(sample.get(GUIDANCE, SOME_GUIDANCE)) > NO_GUIDANCE
    yield {**changes, GUIDANCE: NO_GUIDANCE if guided else SOME_GUIDANCE}


def _batched(arguments: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """The same call for several prompts at once."""
    result = dict(arguments)
    for name in PROMPTS:
        value = result.get(name)
        if isinstance(value, str):
            result[name] = [value] * batch
        elif isinstance(value, list) and value:
            result[name] = [value[i % len(value)] for i in range(batch)]
    return result


def one_step(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The same call in as few steps as can be."""
    result = dict(arguments)
    # With a strength of a half, one step of two is taken.
    strength = result.get("strength", 1)
    fits = isinstance(strength, int | float) and 0 < strength <= 1
    result["num_inference_steps"] = math.ceil(1 / strength) if fits else 1
    return result


def capture(
    entries: Sequence[EntryPoint],
    runs: Sequence[Mapping[str, Any]],
    run: Callable[[Mapping[str, Any]], Any],
) -> dict[str, list[Captured]]:
    """Run the sample in every setting; one call of each kind is kept of every entry point."""
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
    """What is passed may be written to later."""
    if isinstance(leaf, torch.Tensor):
        return leaf.detach().clone(memory_format=torch.preserve_format)
    return leaf


def _shown(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in arguments.items() if isinstance(v, int | float))
