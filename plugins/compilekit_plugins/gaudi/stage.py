"""A build: the pipeline's folder, the warm-up list, and what the worker is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import compilekit as ck
from compilekit.model import float_dtype
from compilekit_plugins import older_readers
from compilekit_plugins.gaudi.worker import config, recipes

if TYPE_CHECKING:
    from compilekit.model import Model
    from compilekit_plugins.gaudi.options import Gaudi


def request_of(
    model: Model, options: Gaudi, destination: Path, context: ck.WholeContext
) -> dict[str, Any]:
    """Write what the bundle is made of beside the recipes, and say what is to be done with it."""
    key = context.step.key
    if not model.is_pipeline:
        raise ck.StepError(f"{key}: it builds bundles of pipelines, not of plain modules")
    if not context.calls and not context.preflight:
        raise ck.StepError(f"{key}: there is nothing to warm up with: the recipe needs a `sample:`")
    if not context.preflight:
        context.progress("saving the model")
        model.subject.save_pretrained(destination / "model", safe_serialization=True)
        if options.engine == "optimum":
            older_readers.rewrite(destination / "model")
        _json(destination / config.NAME, config.read(options.gaudi_config))
    calls = [_plain(recipes.several_steps(call), destination, key) for call in context.calls]
    if not context.preflight:
        _json(destination / recipes.WARM_UP, {"seed": context.seed, "calls": calls})
    kinds = {name: float_dtype(module) for name, module in model.modules.items()}
    return {
        "level": context.preflight,
        "force": context.force,
        "key": key,
        "class": type(model.subject).__name__,
        # Components are loaded again in the dtypes that they have.
        "dtypes": {n: str(k).removeprefix("torch.") for n, k in kinds.items() if k is not None},
        "destination": str(destination.absolute()),
        "options": _options(options),
        "calls": calls,
        "sample": _plain(context.sample, destination, key),
        "seed": context.seed,
    }


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _options(options: Gaudi) -> dict[str, Any]:
    """The options; a configuration that is a file is looked for from here."""
    values = options.model_dump(mode="json")
    named = options.gaudi_config
    if named and named not in config.names():
        values["gaudi_config"] = str(Path(named).absolute())
    return values


def _plain(call: Mapping[str, Any], destination: Path, key: str) -> dict[str, Any]:
    """A call as JSON: pictures are files of the bundle."""
    plain: dict[str, Any] = {}
    pictures = []
    for name, value in call.items():
        if hasattr(value, "save"):
            folder = destination / recipes.PICTURES
            folder.mkdir(exist_ok=True)
            value.save(folder / f"{name}.png")
            pictures.append(name)
            continue
        try:
            json.dumps(value)
        except TypeError as error:
            raise ck.StepError(
                f"{key}: sample.{name}: a {type(value).__name__} cannot be kept in a bundle"
            ) from error
        plain[name] = value
    if pictures:
        plain["pictures"] = pictures
    return plain
