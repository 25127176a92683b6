"""What the worker is asked: the model in a folder, and all that it needs, as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import compilekit as ck
from compilekit_plugins import older_readers
from compilekit_plugins.neuron import STAGED
from compilekit_plugins.neuron.options import Neuron

if TYPE_CHECKING:
    from compilekit.model import Model


def request_of(
    model: Model, options: Neuron, destination: Path, context: ck.WholeContext
) -> dict[str, Any]:
    """Write the model and the sample's pictures, and say what is to be done with them."""
    key = context.step.key
    if not model.is_pipeline:
        raise ck.StepError(f"{key}: it compiles pipelines, not plain modules")
    context.progress("saving the model for the worker")
    model.subject.save_pretrained(context.scratch / STAGED, safe_serialization=True)
    older_readers.rewrite(context.scratch / STAGED)
    sample, pictures = _split(context)
    denoiser: Any = model.module(model.denoisers[0])
    return {
        "do": "build",
        "model": STAGED,
        "class": type(model.subject).__name__,
        "dtype": str(denoiser.dtype).removeprefix("torch."),
        "destination": str(destination.absolute()),
        "options": _said(options),
        "sample": sample,
        "pictures": pictures,
        "seed": context.seed,
        "level": context.preflight,
        "force": context.force,
    }


def _said(options: Neuron) -> dict[str, Any]:
    """The options; folders that they name are looked for from here, not from where it works."""
    said = options.model_dump(mode="json")
    adapter = said["ip_adapter"]
    for each in (*said["lora"], *([adapter] if adapter else [])):
        each["source"] = _place(each["source"])
    said["unet"] = _place(said["unet"])
    return said


def _place(source: str) -> str:
    return str(Path(source).absolute()) if source and Path(source).exists() else source


def _split(context: ck.WholeContext) -> tuple[dict[str, Any], dict[str, str]]:
    """The sample's plain arguments, and its pictures as files."""
    plain: dict[str, Any] = {}
    pictures: dict[str, str] = {}
    for name, value in context.sample.items():
        if hasattr(value, "save"):
            path = context.scratch / f"{name}.png"
            value.save(path)
            pictures[name] = path.name
        else:
            plain[name] = value
    return plain, pictures
