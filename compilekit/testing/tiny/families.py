"""The classes that `tiny_pipeline` builds by name: a table of families.

A class takes the components of one of the kinds, or of another class in the table, by the names
of its arguments. A row has the components that are others: a class of diffusers or transformers
with its arguments, or a function of the components so far.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from compilekit.testing.tiny import rows_transformer, rows_unet, rows_video
from compilekit.testing.tiny.making import Row

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

FAMILIES: dict[str, Row] = rows_unet.ROWS | rows_transformer.ROWS | rows_video.ROWS
"""Each class: the kind or class whose components it takes, and those that are others."""


def build(name: str, kind: Callable[[str], Any]) -> DiffusionPipeline:
    """Build a pipeline of a class in the table; `kind` builds one of the kinds."""
    import diffusers

    pipeline_class = getattr(diffusers, name)
    takes = inspect.signature(pipeline_class.__init__).parameters
    components = _components(name, kind)
    given = {key: value for key, value in components.items() if key in takes}
    for key, parameter in takes.items():
        if key not in given and key != "self" and parameter.default is parameter.empty:
            given[key] = None
    if "requires_safety_checker" in takes:
        given["requires_safety_checker"] = False
    pipeline: DiffusionPipeline = pipeline_class(**given)
    for module in pipeline.components.values():
        _wake(module)
    return pipeline


def _components(name: str, kind: Callable[[str], Any]) -> dict[str, Any]:
    base, others = FAMILIES.get(name, ("", {}))
    if base in FAMILIES:
        components = _components(base, kind)
    else:
        components = dict(kind(base).components) if base else {}
    for key, part in others.items():
        components[key] = part(components) if callable(part) else _made(part)
    return components


def _made(part: Any) -> Any:
    import diffusers

    if not isinstance(part, tuple):
        return part
    name, config = part
    if hasattr(diffusers, name):
        return getattr(diffusers, name)(**config)
    import transformers

    made = getattr(transformers, name)
    return made(made.config_class(**config)) if hasattr(made, "config_class") else made(**config)


def _wake(module: Any) -> None:
    """Give weights that start as zeros random ones: what they multiply would not matter."""
    for weight in getattr(module, "parameters", list)():
        if weight.dim() > 1 and not weight.any():
            weight.data.normal_(std=0.05)
