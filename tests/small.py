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

WORKLOADS = {
    "A1": ["any/bfloat16", "any/tf32"],
    "A2": ["any/attention"],
    "A3": ["sd/inductor-flags"],
    "A4": ["sd/channels-last"],
    "A5": ["sd/compile"],
    "A6": ["sd/dynamic-shapes"],
    "A7": ["sd/compile-regions", "sd/compile-named-blocks"],
    "A8": ["sd/compile-auto-regions"],
    "A9": ["sd/graph-breaks"],
    "A10": ["any/scheduler-on-cpu"],
    "A11": ["sd/int8"],
    "A12": ["sd/qkv-fusion"],
    "A13": ["flux/aot"],
    "A15": ["flux/kontext"],
    "A16": ["flux/xformers"],
    "D1": ["any/float16"],
    "D2": ["sd/scheduler"],
    "D3": ["any/batch"],
    "D4": ["sd/attention-slicing"],
    "D5": ["sd/vae"],
    "D6": ["any/image-grid"],
    "N1": ["neuron/sd21"],
    "N2": ["neuron/sd15"],
    "N4": ["neuron/img2img"],
    "N5": ["neuron/inpaint"],
    "N6": ["neuron/sdxl"],
    "N8": ["neuron/sdxl", "neuron/sdxl-refiner"],
    "N10": ["neuron/lcm"],
    "N11": ["neuron/lcm-sdxl"],
    "N12": ["neuron/sdxl-turbo"],
    "G1": ["gaudi/sd14-optimum", "gaudi/sd15", "gaudi/sd21-base", "gaudi/sd21"],
    "G2": ["gaudi/sd21-optimum", "gaudi/sd15"],
    "G3": ["gaudi/sd15"],
}
"""The recipes of each row of the manual's workloads, by its id."""


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
    """The same steps, on the CPU, for a small picture, however fast."""
    said.pop("model", None)
    said.get("verify", {}).pop("min_speedup", None)
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
