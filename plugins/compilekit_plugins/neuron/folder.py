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
    return {path.parent.name: _said(path.parent) for path in sorted(folder.glob(f"*/{CODE}"))}


def _said(part: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((part / CONFIG).read_text(encoding="utf-8"))["neuron"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ck.ModelError(f"{part / CONFIG}: cannot be read: {error}") from error


def lines(folder: Path) -> Iterator[str]:
    """The folder, for people."""
    found = parts(folder)
    if not found:
        return
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    one = next(iter(found.values()))
    yield f"{folder}: a {index.get('_class_name')}, compiled for Neuron"
    yield (
        f"  by {one.get('compiler_type')} {one.get('compiler_version')} for "
        f"{one.get('instance_type')}, optlevel {one.get('optlevel')}"
    )
    cast = one.get("auto_cast")
    yield f"  cast: {cast} to {one.get('auto_cast_type')}" if cast else "  cast: nothing"
    for name, said in found.items():
        sizes = ", ".join(
            f"{key.removeprefix('static_')} {value}"
            for key, value in said.items()
            if key.startswith("static_")
        )
        bits = [
            str(said.get("float_dtype")),
            "dynamic batch" if said.get("dynamic_batch_size") else "",
            "" if said.get("inline_weights_to_neff", True) else "weights beside the code",
        ]
        yield f"  {name}: {sizes}; {', '.join(bit for bit in bits if bit)}"
