"""The sample's pictures: as the pipeline draws them, and as what was compiled does."""

from __future__ import annotations

import inspect
import time
from pathlib import Path
from typing import Any

from .load import has_device, load
from .model import pipeline


def draw(job: Any, compiled: Path | None, name: str) -> dict[str, Any]:
    """Run the sample, and keep its pictures in a file; empty where nothing can run here."""
    import numpy as np

    if compiled is None:
        subject = pipeline(job, to_export=False)
    elif has_device():
        subject = load(
            compiled,
            job.request["class"],
            job.options["data_parallel"],
            job.request.get("without", ()),
        )
    else:
        job.note("what was compiled has not run: there is no Neuron device here")
        return {}
    subject.set_progress_bar_config(disable=True)
    start = time.perf_counter()
    pictures = run(subject, job.request, as_plain=compiled is None, options=job.options)
    seconds = time.perf_counter() - start
    np.save(name, pictures, allow_pickle=False)
    return {"file": str(Path(name).absolute()), "seconds": seconds}


def run(subject: Any, request: dict[str, Any], *, as_plain: bool, options: dict[str, Any]) -> Any:
    """One call of the pipeline; pictures are floats of shape (N, H, W, C)."""
    import torch
    from PIL import Image

    arguments = dict(request["sample"])
    for name, path in request.get("pictures", {}).items():
        with Image.open(path) as picture:
            arguments[name] = picture.convert("RGB")
    if as_plain:
        _as_compiled(arguments, subject, options)
    generator = torch.Generator("cpu").manual_seed(request["seed"])
    with torch.no_grad():
        result = subject(**{**arguments, "generator": generator, "output_type": "np"})
    return result.images


def _as_compiled(arguments: dict[str, Any], subject: Any, options: dict[str, Any]) -> None:
    """Let the pipeline that is not compiled draw at the sizes that the other is compiled for."""
    from PIL import Image

    takes = inspect.signature(type(subject).__call__).parameters
    size = (options["width"], options["height"])
    if "num_images_per_prompt" in takes:
        arguments.setdefault("num_images_per_prompt", options["num_images_per_prompt"])
    if "height" in takes:
        arguments.update(width=size[0], height=size[1])
    elif isinstance(arguments.get("image"), Image.Image):
        arguments["image"] = arguments["image"].resize(size, Image.Resampling.LANCZOS)
