"""Casts at the door of components, for pipelines whose components differ in dtype."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

from compilekit.model import EntryPoint, Layer, Model, float_dtype
from compilekit_plugins.diffusers_internals import OLD_FORWARD

MATRIX = 2


class Door(Layer):
    """Casts what enters a component, and what leaves it back.

    inner: the dtype of the component's weights.
    outer: the dtype that the pipeline saw before; None if the component kept its own.
    """

    def __init__(
        self, beneath: Callable[..., Any], inner: torch.dtype, outer: torch.dtype | None
    ) -> None:
        super().__init__(beneath)
        self.inner = inner
        self.outer = outer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self.beneath(*cast(args, self.inner), **cast(kwargs, self.inner))
        return output if self.outer is None else cast(output, self.outer)


def cast_at_the_door(
    model: Model, components: set[str], dtype: torch.dtype, known: Mapping[str, str]
) -> dict[str, str]:
    """Put a door before every component of a pipeline; gives the dtypes that they had.

    Components that keep their dtype get one too: a pipeline makes its latents in the dtype of
    one component (mostly the text encoder) and hands them to the others.

    known: the dtypes before the first cast, where that was done in another process.
    """
    dtypes: dict[str, str] = {}
    for name, module in model.modules.items():
        was = getattr(torch, known[name]) if name in known else float_dtype(module)
        if was is None:
            continue
        dtypes[name] = str(was).removeprefix("torch.")
        chosen = name in components
        for entry in model.entry_points(name):
            door = _door_of(entry)
            if door is None:
                inner, outer = (dtype, was) if chosen else (was, None)
                entry.wrap(functools.partial(Door, inner=inner, outer=outer))
            elif chosen:
                door.inner, door.outer = dtype, door.outer or was
    return dtypes


def _door_of(entry: EntryPoint) -> Door | None:
    """The door that an earlier step put there."""
    layer: Any = vars(entry.owner).get(OLD_FORWARD) or vars(entry.owner).get(entry.method)
    while isinstance(layer, Layer) and not isinstance(layer, Door):
        layer = layer.beneath
    return layer if isinstance(layer, Door) else None


def cast(value: Any, dtype: torch.dtype) -> Any:
    """A copy of nested containers whose floating tensors have another dtype.

    Tensors of less than two dimensions stay: timesteps lose too much when they are rounded.
    """
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() and value.dim() >= MATRIX else value
    if type(value) in (list, tuple):
        return type(value)(cast(item, dtype) for item in value)
    if isinstance(value, dict):
        items = {key: cast(item, dtype) for key, item in value.items()}
        # diffusers' and transformers' outputs are dicts, and dataclasses too.
        return dataclasses.replace(value, **items) if dataclasses.is_dataclass(value) else items
    return value
