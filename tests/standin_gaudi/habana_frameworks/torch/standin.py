"""What the parts of the stand-in share: the device, counters, and what was read at import."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

LAZY = os.environ.get("PT_HPU_LAZY_MODE", "0") != "0"
"""Read once: whoever sets it later is too late, as with the real one."""

OP_LISTS = {
    name: os.environ.get(name, "")
    for name in ("PT_HPU_AUTOCAST_LOWER_PRECISION_OPS_LIST", "PT_HPU_AUTOCAST_FP32_OPS_LIST")
}
STORES_NOTHING = os.environ.get("GAUDI_STANDIN_STORES") == "nothing"
CACHE = os.environ.get("PT_HPU_RECIPE_CACHE_CONFIG", "")
FAULT = ""
"""What is wrong with it, on purpose: `no-replay`, `no-copy`, `no-shape`."""

DEVICES = {"HL-205": "GAUDI", "HL-225": "GAUDI2", "HL-325": "GAUDI3"}

gathering = False
"""Whether lazy mode gathers what runs: from the first capture on, and in none and no replay.

What runs before the first capture is loading, and tensors are all on the CPU here.
"""

counts = {
    "segments": 0,
    "compilations": 0,
    "hits": 0,
    "misses": 0,
    "mark_step": 0,
    "captures": 0,
    "replays": 0,
}


def device_name() -> str:
    return DEVICES[os.environ.get("GAUDI_STANDIN_DEVICE", "HL-225")]


def compile_graph(lines: list[str]) -> None:
    """Compile a graph, or find its recipe: one file for each graph, in the cache's folder."""
    if not CACHE:
        counts["compilations"] += 1
        return
    path, delete, size = CACHE.split(",")
    assert delete in ("true", "false")
    assert int(size) > 0
    # In inference the rank is appended to the folder's name.
    folder = Path(f"{path}0")
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join([device_name(), *lines])
    key = hashlib.sha256(text.encode()).hexdigest()[:20]
    recipe = folder / f"{key}_0_syn{os.environ.get('GAUDI_STANDIN_DRIVER', '1.24.0')}.recipe"
    if recipe.exists():
        counts["hits"] += 1
        return
    counts["misses"] += 1
    counts["compilations"] += 1
    if STORES_NOTHING:
        return
    recipe.write_text(text, encoding="utf-8")
    recipe.with_suffix(".metadata").write_text(key, encoding="utf-8")


_gathered: list[str] = []
_segments: set[tuple[str, ...]] = set()


def flush() -> None:
    """End of a segment: it is compiled if none of its operations and shapes was there before."""
    segment = tuple(_gathered)
    _gathered.clear()
    if segment and segment not in _segments:
        _segments.add(segment)
        counts["segments"] += 1
        compile_graph(list(segment))


class Lazily(TorchDispatchMode):
    """Gathers operations by their shapes: all of them, since every tensor is on the CPU here."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if gathering:
            leaves = tree_leaves((args, kwargs))
            tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
            shapes = " ".join(f"{each.dtype}{tuple(each.shape)}" for each in tensors)
            _gathered.append(f"{func} {shapes}")
        return func(*args, **(kwargs or {}))


class OnCpu(TorchFunctionMode):
    """Sends every "hpu" that a function of torch is given to the CPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        return func(*map(_moved, args), **{k: _moved(v) for k, v in (kwargs or {}).items()})


def _moved(value):
    is_device = isinstance(value, torch.device) and value.type == "hpu"
    is_name = isinstance(value, str) and value.split(":")[0] == "hpu"
    return torch.device("cpu") if is_device or is_name else value
