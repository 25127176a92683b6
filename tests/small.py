"""Shipped recipes and the manual's, as they are run on small models."""

from __future__ import annotations

import io
from typing import Any

from ruamel.yaml import YAML

import compilekit as ck
from compilekit.recipe import library

SMALL = {"height": 32, "width": 32, "num_inference_steps": 2, "seed": 7}
EAGER = {"backend": "eager", "mode": "default", "inductor": {}}
"""What is compiled is the matter, and not by what."""


def small_recipe(
    name: str, *, options: dict[str, dict[str, Any]] | None = None, **sample: Any
) -> ck.Recipe:
    """A shipped recipe for a small model on the CPU. `options`: those of steps, by their names."""
    path = library.find(name)
    assert path
    said = _read(path.read_text(encoding="utf-8"))
    if "extends" in said:
        said = _read((path.parent / said["extends"]).read_text(encoding="utf-8"))
    return shrunk(said, options or {}, sample)


def small_example(text: str, options: dict[str, dict[str, Any]]) -> ck.Recipe:
    """A recipe of the manual for a small model."""
    return shrunk(_read(text), options, {})


def shrunk(
    said: dict[str, Any], options: dict[str, dict[str, Any]], sample: dict[str, Any]
) -> ck.Recipe:
    """The same steps, on the CPU, for a small picture."""
    said.pop("model", None)
    for key in ("max_sequence_length", "guidance_scale"):
        said["sample"].pop(key, None)
    said["target"] = {"device": "cpu"}
    said["sample"] = {**said["sample"], **SMALL, **sample}
    for step in said["steps"]:
        for plugin, own in step.items():
            own.update(options.get(plugin, {}))
    stream = io.StringIO()
    YAML().dump(said, stream)
    return ck.Recipe.parse(stream.getvalue())


def _read(text: str) -> dict[str, Any]:
    return dict(YAML(typ="safe").load(text))
