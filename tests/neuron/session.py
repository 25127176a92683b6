"""Run in a new process of the Neuron environment: code that loads bundles and draws.

Whatever the code puts into `answer` is printed as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import compilekit as ck


def plain(folder, kind="StableDiffusionPipeline", **components):
    """The pipeline that is not compiled, by diffusers alone."""
    import diffusers

    return getattr(diffusers, kind).from_pretrained(folder, **components)


def load(bundle, **arguments):
    """The compiled pipeline, by compilekit."""
    return ck.load(bundle, progress=False, **arguments)


def draw(pipeline, seed=7, **arguments):
    """Its pictures; of both kinds of pipeline the arguments are the same."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(seed)
    said = {"prompt": "a cat", "num_inference_steps": 2, "output_type": "np", **arguments}
    with torch.no_grad():
        return pipeline(**said, generator=generator).images


def picture(seed=0, size=64):
    """A picture of noise, large spots of it."""
    rows = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(rows).resize((size, size), Image.Resampling.BICUBIC)


def mask(size=64):
    """The right half."""
    rows = np.zeros((size, size), dtype=np.uint8)
    rows[:, size // 2 :] = 255
    return Image.fromarray(rows)


def apart(one, other):
    """The largest difference; infinite where shapes differ."""
    one, other = (torch.as_tensor(each).float() for each in (one, other))
    return float((one - other).abs().max()) if one.shape == other.shape else float("inf")


def in_child(function, *arguments, **keywords):
    """What a call gives, or raises, in a fork of this process: what it mends is gone with it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            found = function(*arguments, **keywords)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
            found = f"{type(error).__name__}: {error}"
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = json.loads(pipe.read())
    os.waitpid(pid, 0)
    return found


def without(fix, bundle, kind, parallel="auto"):
    """The compiled pipeline, with one of the fixes left out."""
    from compilekit_plugins.neuron.worker.load import load as worker_load

    return worker_load(Path(bundle), kind, parallel, [fix])


def raised(function, *arguments, **keywords):
    """What a call raises, in words."""
    try:
        function(*arguments, **keywords)
    except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
        return f"{type(error).__name__}: {error}"
    return "nothing"


if __name__ == "__main__":
    names = globals()
    exec(Path(sys.argv[1]).read_text(encoding="utf-8"), names)  # noqa: S102 - a test's own code
    print("ANSWER " + json.dumps(names["answer"]))  # noqa: T201
