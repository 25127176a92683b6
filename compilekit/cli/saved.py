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
    found = summary(folder)
    shown = [f"{folder}: a {found['class']}, not a bundle", "components"]
    shown += [f"  {name}: {kind}" for name, kind in found["components"].items()]
    if found["compatible"]:
        shown.append(f"schedulers that can stand in for {found['scheduler']}")
        shown += [f"  {name}" for name in found["compatible"]]
    return shown


def _compatible(folder: Path, scheduler: str) -> list[str]:
    import diffusers

    kind: Any = getattr(diffusers, scheduler, None)
    if kind is None:
        raise ModelError(f"{folder / INDEX}: diffusers has no scheduler {scheduler} here")
    made = kind.from_config(kind.load_config(folder / "scheduler"))
    return sorted(each.__name__ for each in made.compatibles)
