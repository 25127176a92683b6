"""Gaudi configurations: which operations run in bfloat16. Two of the vendor's lie beside this file.

Their op lists are read by the driver package while it is imported, so they are written to files
before that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compilekit.workers.faults import Fault

FOLDER = Path(__file__).with_name("configs")
PREFIX = "Habana/"
NAME = "gaudi_config.json"

FLAGS = ("use_torch_autocast", "use_dynamic_shapes", "use_fused_adam", "use_fused_clip_norm")
VARIABLES = {
    "autocast_bf16_ops": "PT_HPU_AUTOCAST_LOWER_PRECISION_OPS_LIST",
    "autocast_fp32_ops": "PT_HPU_AUTOCAST_FP32_OPS_LIST",
}
LISTS = tuple(VARIABLES)


def names() -> list[str]:
    """The names of those that come with compilekit."""
    return sorted(f"{PREFIX}{path.stem}" for path in FOLDER.glob("*.json"))


def read(named: str) -> dict[str, Any]:
    """A configuration by its name, file or folder; without a name the one that changes nothing."""
    if not named:
        return {}
    path = FOLDER / f"{named.removeprefix(PREFIX)}.json" if named in names() else Path(named)
    if path.is_dir():
        path = path / NAME
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Fault(
            f"{named}: neither a file or folder here, nor one of {', '.join(names())}"
        ) from error
    except ValueError as error:
        raise Fault(f"{path}: no JSON: {error}") from error
    if not isinstance(settings, dict):
        raise Fault(f"{path}: holds no mapping")
    for key, value in settings.items():
        _check(path, key, value)
    if len({settings.get(name) is None for name in LISTS}) > 1:
        raise Fault(f"{path}: has one of {' and '.join(LISTS)}; the driver wants both, or none")
    return settings


def _check(path: Path, key: str, value: Any) -> None:
    if key in FLAGS:
        right = isinstance(value, bool)
    elif key in LISTS:
        right = value is None or (
            isinstance(value, list) and all(isinstance(name, str) for name in value)
        )
    else:
        # transformers puts its version there, and the like.
        right = key not in ("autocast", "bf16")
    if not right:
        raise Fault(f"{path}: {key}: {value!r} is not what belongs there")


def without_lists(settings: dict[str, Any]) -> dict[str, Any]:
    """What may be handed over once the driver package is imported."""
    return {key: value for key, value in settings.items() if key in FLAGS}


def write_lists(settings: dict[str, Any], folder: Path) -> dict[str, str]:
    """Write the op lists to files, an operation a line; gives the variables that name them."""
    variables = {}
    for name, variable in VARIABLES.items():
        if settings.get(name) is not None:
            path = folder / f"{name}.txt"
            path.write_text("".join(f"{op}\n" for op in settings[name]), encoding="utf-8")
            variables[variable] = str(path)
    return variables
