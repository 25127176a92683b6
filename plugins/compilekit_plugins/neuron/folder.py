"""A compiled folder, as optimum-neuron lays it out, read without the SDK. Light: no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import compilekit as ck

INDEX, CONFIG, CODE = "model_index.json", "config.json", "model.neuron"


def parts(folder: Path) -> dict[str, dict[str, Any]]:
    """What every compiled part says of itself, by its name; empty for another kind of folder."""
    return {path.parent.name: _config(path.parent) for path in sorted(folder.glob(f"*/{CODE}"))}


def _config(part: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((part / CONFIG).read_text(encoding="utf-8"))["neuron"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ck.ModelError(f"{part / CONFIG}: cannot be read: {error}") from error


def lines(folder: Path) -> Iterator[str]:
    """The folder, for people."""
    configs = parts(folder)
    if not configs:
        return
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    first = next(iter(configs.values()))
    yield f"{folder}: a {index.get('_class_name')}, compiled for Neuron"
    yield (
        f"  by {first.get('compiler_type')} {first.get('compiler_version')} for "
        f"{first.get('instance_type')}, optlevel {first.get('optlevel')}"
    )
    cast = first.get("auto_cast")
    yield f"  cast: {cast} to {first.get('auto_cast_type')}" if cast else "  cast: nothing"
    for name, config in configs.items():
        sizes = ", ".join(
            f"{key.removeprefix('static_')} {value}"
            for key, value in config.items()
            if key.startswith("static_")
        )
        bits = [
            str(config.get("float_dtype")),
            "dynamic batch" if config.get("dynamic_batch_size") else "",
            "" if config.get("inline_weights_to_neff", True) else "weights beside the code",
        ]
        yield f"  {name}: {sizes}; {', '.join(filter(None, bits))}"
