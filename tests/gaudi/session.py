"""Run in a new process, over the stand-in for the driver package: code of a test.

Whatever the code puts into `answer` is printed as JSON.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np  # noqa: F401 - for the tests' code
import torch
from torch import nn

import compilekit as ck
from compilekit.testing import tiny_pipeline

CALL = {"prompt": "a cat", "height": 32, "width": 32, "num_inference_steps": 2}


def recipe(options="", shapes=(), before=(), sample=None, **rest):
    """A recipe for the HPU; options of `gaudi` in the compact form, or as a mapping."""
    given = options if isinstance(options, dict) else {}
    steps = [*before, {"gaudi": given}]
    said = {"compilekit": 1, "target": {"device": "hpu"}, "shapes": list(shapes), "steps": steps}
    said["sample"] = {**CALL, "seed": 7} if sample is None else sample
    return ck.Recipe.parse(json.dumps({**said, **rest}))


def apply(pipeline, options=None, **rest):
    """The pipeline, and the row of the report."""
    done = ck.apply(recipe(options or {}, **rest), pipeline, progress=False)
    return done.pipeline, done.report.steps[-1].details


class Line(nn.Module):
    """A plain module, for tests that need no pipeline, whose imports take seconds."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return self.linear(x)


def plain(module=None, options=None):
    """A plain module, and the row of the report."""
    module = module or Line().eval()
    inputs = {"x": torch.ones(1, 8)}
    done = ck.apply(recipe(options or {}, sample={}), module, inputs=inputs, progress=False)
    return module, done.report.steps[-1].details


def made(kind):
    """A small pipeline of a kind; "lcm" is a distilled one, which is told the guidance."""
    if kind != "lcm":
        return tiny_pipeline(kind)
    from diffusers import LCMScheduler, UNet2DConditionModel

    pipeline = tiny_pipeline("sd")
    torch.default_generator.manual_seed(3)
    # Names with an underscore are notes, of which options had been left at their defaults, say.
    config = {name: v for name, v in pipeline.unet.config.items() if not name.startswith("_")}
    unet = UNet2DConditionModel.from_config({**config, "time_cond_proj_dim": 8}).eval()
    assert unet.time_embedding.cond_proj is not None
    pipeline.register_modules(
        unet=unet, scheduler=LCMScheduler.from_config(pipeline.scheduler.config)
    )
    return pipeline


def draw(pipeline, seed=7, **arguments):
    """Its pictures, in float32."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.no_grad():
        return pipeline(**{**CALL, "output_type": "np", **arguments}, generator=generator).images


def counts(pipeline, entry="unet"):
    """What the stand-in of an entry point counted so far."""
    function = pipeline.components[entry.split(".")[0]]
    function = getattr(function, entry.split(".")[1] if "." in entry else "forward")
    while not hasattr(function, "counts"):
        function = function.beneath
    return function.counts.to_dict()


def apart(one, other):
    """The largest difference; infinite where shapes differ."""
    one, other = (torch.as_tensor(each).float() for each in (one, other))
    return float((one - other).abs().max()) if one.shape == other.shape else float("inf")


def raised(function, *arguments, **keywords):
    """What a call raises, in words."""
    try:
        function(*arguments, **keywords)
    except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
        return f"{type(error).__name__}: {error}"
    return "nothing"


if __name__ == "__main__":
    warnings.simplefilter("error", UserWarning)
    warnings.filterwarnings("ignore", message=".*torch.jit.*")
    names = globals()
    exec(Path(sys.argv[1]).read_text(encoding="utf-8"), names)  # noqa: S102 - a test's own code
    print("ANSWER " + json.dumps(names["answer"]))  # noqa: T201
