"""What `compilekit inspect` says of a saved pipeline, as diffusers writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compilekit.errors import ModelError

INDEX = "model_index.json"


def summary(folder: Path) -> dict[str, Any]:
    """Its class, its components, and the schedulers that can stand in for its own."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        components = {
            name: ".".join(map(str, value))
            for name, value in index.items()
            if isinstance(value, list) and value[-1:] not in ([], [None])
        }
        kind = str(index["_class_name"])
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{folder / INDEX}: cannot be read: {error}") from error
    scheduler = components.get("scheduler", "").rpartition(".")[2]
    return {
        "class": kind,
        "components": components,
        "scheduler": scheduler,
        "compatible": _compatible(folder, scheduler) if scheduler else [],
    }


def lines(folder: Path) -> list[str]:
    """The same, for people."""
    data = summary(folder)
    text = [f"{folder}: a {data['class']}, not a bundle", "components"]
    text += [f"  {name}: {kind}" for name, kind in data["components"].items()]
    if data["compatible"]:
        text.append(f"schedulers that can stand in for {data['scheduler']}")
        text += [f"  {name}" for name in data["compatible"]]
    return text


def _compatible(folder: Path, scheduler: str) -> list[str]:
    import diffusers

    kind: Any = getattr(diffusers, scheduler, None)
    if kind is None:
        raise ModelError(f"{folder / INDEX}: diffusers has no scheduler {scheduler} here")
    compatibles = kind.from_config(kind.load_config(folder / "scheduler")).compatibles
    return sorted(compatible.__name__ for compatible in compatibles)
