"""What the worker is asked: the model in a folder, and all that it needs, as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import compilekit as ck
from compilekit_plugins import older_readers
from compilekit_plugins.neuron.options import Neuron
from compilekit_plugins.neuron.worker.sizes import Sizes

if TYPE_CHECKING:
    from compilekit.model import Model

STAGED = "model"
"""What the worker sees the model's folder as: flags of the compiler depend on words in paths."""


def request_of(
    model: Model, options: Neuron, destination: Path, context: ck.WholeContext
) -> dict[str, Any]:
    """Write the model and the sample's pictures, and say what is to be done with them."""
    key = context.step.key
    if not model.is_pipeline:
        raise ck.StepError(f"{key}: it compiles pipelines, not plain modules")
    _fit(options, context)
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
        "options": _options(options),
        "sample": sample,
        "pictures": pictures,
        "seed": context.seed,
        "level": context.preflight,
        "force": context.force,
    }


def _fit(options: Neuron, context: ck.WholeContext) -> None:
    """Look whether what is compiled can draw the sample: before hours of work, not after."""
    sizes = Sizes(
        height=options.height,
        width=options.width,
        batch=options.batch_size,
        images=options.num_images_per_prompt,
        spread=options.data_parallel in ("all", "auto"),
        dynamic=options.dynamic_batch,
    )
    if context.sample and (what := sizes.uncovered(context.sample)):
        raise ck.StepError(
            f"{context.step.key}: the sample asks for {what}; compiled is {sizes}: change one of "
            "them"
        )


def _options(options: Neuron) -> dict[str, Any]:
    """The options; folders that they name are looked for from here, not from where it works."""
    values = options.model_dump(mode="json")
    for adapter in filter(None, (*values["lora"], values["ip_adapter"])):
        adapter["source"] = _place(adapter["source"])
    values["unet"] = _place(values["unet"])
    return values


def _place(source: str) -> str:
    return str(Path(source).absolute()) if source and Path(source).exists() else source


def _split(context: ck.WholeContext) -> tuple[dict[str, Any], dict[str, str]]:
    """The sample's plain arguments, and its pictures as files."""
    plain: dict[str, Any] = {}
    pictures: dict[str, str] = {}
    for name, value in context.sample.items():
        if hasattr(value, "save"):
            pictures[name] = f"{name}.png"
            value.save(context.scratch / pictures[name])
        else:
            plain[name] = value
    return plain, pictures
