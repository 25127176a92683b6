"""What the driver package reads only while it is imported: set before that, or refused. Light."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compilekit.workers.faults import MachineFault

from . import config, packages

DRIVER = "habana_frameworks.torch"
LAZY, CACHE = "PT_HPU_LAZY_MODE", "PT_HPU_RECIPE_CACHE_CONFIG"
METRICS = "PT_HPU_ENABLE_CACHE_METRICS"
MIGRATION = "PT_HPU_GPU_MIGRATION"


def wanted(
    mode: str, gaudi_config: Mapping[str, Any], folder: Path, cache_size: int = 0
) -> dict[str, str]:
    """The variables, by what is asked for. Files that they name are written into the folder.

    cache_size: megabytes for recipes, which go into the folder too; 0 for no such cache.
    """
    variables = {LAZY: "1" if mode == "graphs" else "0", METRICS: "1"}
    variables |= config.write_lists(dict(gaudi_config), folder)
    if cache_size:
        # Three fields: where, whether to empty it first, and megabytes.
        variables[CACHE] = f"{folder / 'recipes'},false,{cache_size}"
    return variables


def set_up(variables: Mapping[str, str]) -> dict[str, str | None]:
    """Set variables, and import the driver package; gives what they were before.

    Raises where it is imported already, and was told something else.
    """
    other = {name: value for name, value in variables.items() if not _is_set(name, value)}
    if os.environ.get(MIGRATION, "0") not in ("0", ""):
        raise MachineFault(
            f"{MIGRATION} is set, which turns calls for CUDA into others for the whole process "
            "(diffusers' own to('hpu') sets it): unset it, and start anew"
        )
    if DRIVER in sys.modules:
        # Without counters less is known; and where recipes go may be any folder, if there is one.
        other.pop(METRICS, None)
        if CACHE in os.environ:
            other.pop(CACHE, None)
        if other:
            wrong = "; ".join(
                f"{name} must be {value}, and is {os.environ.get(name, 'not set')}"
                for name, value in other.items()
            )
            raise MachineFault(
                f"{wrong}. It is too late to set it: {DRIVER} is imported already, and looks only "
                "then (`import torch` may import it by itself). Set it where this process is "
                "started"
            )
        return {}
    before = {name: os.environ.get(name) for name in other}
    os.environ.update(other)
    try:
        import_driver()
    except BaseException:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        raise
    return before


def import_driver() -> Any:
    """Import the driver package, which makes "hpu" known to torch."""
    if not packages.version(packages.PLUGIN):
        raise MachineFault(f"{packages.PLUGIN} is not installed: {packages.CONTAINER}")
    try:
        importlib.import_module(f"{DRIVER}.core")
        return importlib.import_module(DRIVER)
    except (ImportError, RuntimeError, AssertionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise MachineFault(f"{DRIVER} cannot be imported: {reason}") from error


def recipes() -> Path | None:
    """The folder whose name, with the rank behind it, is that of the recipe cache."""
    setting = os.environ.get(CACHE, "")
    return Path(setting.partition(",")[0]) if setting else None


def _is_set(name: str, value: str) -> bool:
    present = os.environ.get(name)
    if present is None or name not in config.VARIABLES.values():
        return present == value
    # Op lists are the same if the files say the same, wherever they lie.
    try:
        return Path(present).read_text(encoding="utf-8") == Path(value).read_text(encoding="utf-8")
    except OSError:
        return False
