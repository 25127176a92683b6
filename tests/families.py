"""Every tiny pipeline through every step that keeps results: what fits, and how far it moves."""

from __future__ import annotations

import functools
import inspect
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from support import EXPORTER
from torch import nn

import compilekit as ck
from compilekit.testing import tiny_pipeline

STEPS = {
    "precision": "precision{{dtype=bfloat16}}",
    "channels_last": "channels_last{{components={parts}}}",
    "qkv_fusion": "qkv_fusion{{components={parts}}}",
    "torch_compile": "torch_compile{{components={denoiser}, backend=eager, mode=default}}",
}
"""The text of each step; `parts` are the networks that run in each denoising step."""

LOOSE = {"precision": 0.25}
LIMIT = 2e-3
"""How far a step may move the output of the whole pipeline, as relative L2."""

REFUSALS = (
    "SealedError",
    "a bundle keeps none beyond the named ones",
    "which a bundle cannot hold",
    "guidance_scale=1.0: steps[0].eager_export: the sample does not run in its warm-up",
    "its config does not describe it",
    "pipeline: cannot be loaded: ",
    "something of the model is in neither its config",
)
"""What a build refuses: attention that changes at each call (PAG), arguments without a name or of
a dtype that bundles lack, pipelines that do not run without guidance, configs that diffusers
changes when it makes a ControlNet (SD3), and pipelines that diffusers saves and then cannot load,
or loads as others (ControlNetXS)."""

PICTURES = ("image", "mask_image", "control_image", "control_mask", "original_image")
SMALL = {
    "prompt": "a cat",
    "height": 32,
    "width": 32,
    "num_frames": 9,
    "num_inference_steps": 2,
    "prior_num_inference_steps": 2,
    "strength": 0.9,
    "max_sequence_length": 16,
    "class_labels": [3],
    "control_mode": 0,
    "max_area": 32 * 32,
    "_auto_resize": False,
    "use_resolution_binning": False,
    "processing_resolution": 32,
    "clean_caption": False,
    "complex_human_instruction": None,
}


@dataclass(frozen=True)
class Tried:
    """What became of a pipeline: how far its output moved, and what the step left alone."""

    moved: float
    limit: float
    skipped: dict[str, str] = field(default_factory=dict)
    refused: str = ""


@functools.cache
def arguments_of(kind: str) -> list[str]:
    """The names of the arguments of a call of a tiny pipeline."""
    return list(inspect.signature(type(tiny_pipeline(kind)).__call__).parameters)


def sample_of(kind: str, folder: Path) -> dict[str, Any]:
    """A small call of a tiny pipeline; pictures are written into the folder."""
    takes = arguments_of(kind)
    sample = {name: value for name, value in SMALL.items() if name in takes}
    if kind in ("IFSuperResolutionPipeline", "StableDiffusionUpscalePipeline"):
        sample = {name: v for name, v in sample.items() if name not in ("height", "width")}
    if "prompt" not in takes:
        sample.pop("strength", None)
    if "Union" not in kind:
        sample.pop("control_mode", None)
    for name in PICTURES:
        if name in takes:
            path = folder / f"{name}.png"
            picture = Image.linear_gradient("L").resize((32, 32))
            picture = picture.point(lambda v: 255 * (v > 128)) if "mask" in name else picture
            picture.convert("RGB").save(path)
            sample[name] = str(path)
    return {**sample, "seed": 7}


def parts_of(pipeline: Any) -> list[str]:
    """The denoiser, and what it runs with."""
    names = ("unet", "transformer", "prior", "controlnet")
    return [n for n in names if isinstance(getattr(pipeline, n, None), nn.Module)]


def drawn(
    pipeline: Any, sample: dict[str, Any], seed: int, prompt: str = "two dogs in the snow"
) -> np.ndarray[Any, Any]:
    """The output of a call with fresh noise."""
    arguments = {
        name: Image.open(value).convert("RGB") if name in PICTURES else value
        for name, value in sample.items()
        if name != "seed"
    }
    if "prompt" in arguments:
        arguments["prompt"] = prompt
    if "output_type" in inspect.signature(type(pipeline).__call__).parameters:
        arguments["output_type"] = "np"
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        output = pipeline(
            **arguments, generator=torch.Generator().manual_seed(seed), return_dict=False
        )
    return np.asarray(output[0], dtype=np.float64)


@functools.cache
def untouched(kind: str) -> np.ndarray[Any, Any]:
    """The output of a tiny pipeline that no step changed."""
    with tempfile.TemporaryDirectory() as folder:
        return drawn(tiny_pipeline(kind), sample_of(kind, Path(folder)), 11)


def tried(kind: str, step: str, folder: Path) -> Tried:
    """Take a tiny pipeline through a step, and compare its output with that of an untouched one."""
    sample, pipeline = sample_of(kind, folder), tiny_pipeline(kind)
    parts = parts_of(pipeline)
    text = STEPS[step].format(parts=f"[{', '.join(parts)}]", denoiser=parts[0])
    limit = LOOSE.get(step, LIMIT)
    recipe = ck.Recipe.from_steps(text, sample=sample, device="cpu")
    try:
        done = ck.apply(recipe, pipeline, progress=False)
    except ck.NoMatchError as error:
        moved = distance(drawn(pipeline, sample, 11), untouched(kind))
        return Tried(moved, LIMIT, {}, str(error))
    except (ck.StepError, ck.VerificationError) as error:
        if step != "precision":
            raise
        return Tried(beyond_a_cast(kind, sample), LIMIT, {}, str(error))
    moved = distance(drawn(done.pipeline, sample, 11), untouched(kind))
    return Tried(moved, limit, dict(done.report.steps[0].skipped))


def beyond_a_cast(kind: str, sample: dict[str, Any]) -> float:
    """How far the step's output is from that of `pipe.to(bfloat16)`; 0 if neither runs."""
    cast = tiny_pipeline(kind).to(torch.bfloat16)
    try:
        expected = drawn(cast, sample, 11)
    except (RuntimeError, TypeError):  # where numpy meets bfloat16, or noise is always float32
        return 0.0
    recipe = ck.Recipe.from_steps("precision{dtype=bfloat16, budget=99}", sample=sample)
    done = ck.apply(recipe, tiny_pipeline(kind), progress=False)
    return distance(drawn(done.pipeline, sample, 11), expected)


def built(kind: str, folder: Path) -> Tried:
    """Build a block of the denoiser ahead of time, load the bundle, and compare."""
    sample, pipeline = sample_of(kind, folder), tiny_pipeline(kind)
    denoiser = parts_of(pipeline)[0]
    step = (
        f"eager_export{{components={denoiser}, modules=[{block_of(getattr(pipeline, denoiser))}]}}"
    )
    host = ck.load_host([EXPORTER])
    recipe = ck.Recipe.from_steps(step, sample=sample, device="cpu")
    try:
        ck.build(recipe, pipeline, folder / "bundle", host=host, cache=False, progress=False)
    except (ck.VerificationError, ck.StepError, ck.ModelError, ck.BundleError) as error:
        if not any(reason in str(error) for reason in REFUSALS):
            raise
        return Tried(0.0, LIMIT, refused=str(error))
    loaded = ck.load(folder / "bundle", host=host, progress=False)
    try:
        return Tried(distance(drawn(loaded, sample, 11), untouched(kind)), LIMIT)
    except ck.UncoveredCallError:
        # Some denoisers see as many words as the prompt has, and the bundle has those of one.
        sight = [drawn(p, sample, 11, "a dog") for p in (loaded, tiny_pipeline(kind))]
        return Tried(distance(*sight), LIMIT)


def block_of(denoiser: nn.Module) -> str:
    """The first block of the first list of blocks that the denoiser runs."""
    names = [name for name, _ in denoiser.named_modules()]
    wanted = (
        "mid_block.resnets.0",
        "mid_block.base_midblock.resnets.0",
        "transformer_blocks.0",
        "blocks.0",
        "joint_transformer_blocks.0",
        "layers.0",
        "down_blocks.0.resnets_in.0",
    )
    return next(name for name in wanted if name in names)


def distance(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """How far two outputs are apart, as relative L2."""
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))
