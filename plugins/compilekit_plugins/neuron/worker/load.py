"""Loading a compiled folder with optimum-neuron, with what it gets wrong mended.

Used by the worker, to draw the sample, and by the plugin, where a bundle is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from compilekit.workers.faults import Fault

DRIVER = re.compile(r"^\s*\d+\s+neuron\s*$", re.MULTILINE)


def has_device(devices: Path = Path("/proc/devices")) -> bool:
    """Whether the driver of Neuron devices is loaded here."""
    try:
        return bool(DRIVER.search(devices.read_text(encoding="utf-8")))
    except OSError:
        return False


def load(
    folder: Path,
    kind: str,
    parallel: str,
    without: Collection[str] = (),
    uncovered: type[Exception] = Fault,
) -> Any:
    """Make a compiled folder ready.

    kind: diffusers' name of the pipeline's class.
    parallel: how it is spread over the cores: "unet", "all", "none"; "auto" leaves it to the model.
    uncovered: what a call of another size raises.
    """
    from .fixes import mend
    from .fixes_load import UNCOVERED, WANTED
    from .model import neuron_class

    mend("load", without)
    WANTED["parallel"] = "" if parallel == "auto" else parallel
    try:
        pipeline = neuron_class(kind).from_pretrained(str(folder))
    finally:
        WANTED["parallel"] = ""
    vars(pipeline)[UNCOVERED] = uncovered
    return pipeline
