"""Whether this machine will do: memory, disk, Python, packages, driver. Nothing heavy is loaded."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import packages
from .load import has_device

GB = 1_000_000_000

KNOWN_NEEDS = {False: (35 * GB, 860_000_000 * 4), True: (92 * GB, 2_567_000_000 * 4)}
"""What AWS says that compiling takes, without and with SDXL, and the bytes of those UNets.

For other models the need is scaled by their UNet's size: a guess, and called so.
"""

DENOISERS = ("unet", "transformer")

LEAST = 2 * GB
"""What the libraries alone take."""


@dataclass(frozen=True)
class Facts:
    """What is known of this machine, and of what is to be compiled."""

    memory: int
    disk: int
    weights: int
    denoiser: int
    is_xl: bool
    python: tuple[int, int]
    versions: dict[str, str]
    placeholders: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    torch_neuron: str = ""
    device: bool = False


def facts(model: Path, root: Path = Path("/")) -> Facts:
    """Look at the machine and the model's folder."""
    index = json.loads((model / "model_index.json").read_text(encoding="utf-8"))
    files = [path for path in model.rglob("*") if path.suffix in (".safetensors", ".bin")]
    return Facts(
        memory=memory(root),
        disk=shutil.disk_usage(Path()).free,
        weights=sum(path.stat().st_size for path in files),
        denoiser=sum(path.stat().st_size for path in files if path.parent.name in DENOISERS),
        is_xl="XL" in str(index.get("_class_name", "")),
        python=sys.version_info[:2],
        versions=packages.versions(),
        placeholders=packages.placeholders(),
        absent=packages.absent(),
        torch_neuron=packages.torch_neuron(),
        device=has_device(root / "proc/devices"),
    )


def memory(root: Path = Path("/")) -> int:
    """The bytes that can be had: free memory and swap, or what the control group leaves."""
    # By hand: this interpreter may lack psutil, and the findings must say what else it lacks.
    sizes = {}
    for line in (root / "proc/meminfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        sizes[name] = int(value.split()[0]) * 1024
    free = sizes.get("MemAvailable", sizes.get("MemTotal", 0)) + sizes.get("SwapFree", 0)
    return min([free, *_group_limits(root)])


def _group_limits(root: Path) -> Iterator[int]:
    places = (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    )
    for limit, usage in places:
        try:
            most = (root / "sys/fs/cgroup" / limit).read_text(encoding="utf-8").strip()
            used = (root / "sys/fs/cgroup" / usage).read_text(encoding="utf-8").strip()
        except OSError:
            continue
        if most.isdigit() and used.isdigit():
            yield max(0, int(most) - int(used))


def findings(known: Facts) -> list[tuple[bool, str]]:
    """What is to be said, and whether it is grave."""
    findings = [*_packages(known), *((True, text) for text in _space(known))]
    if not known.device:
        findings.append(
            (False, "no Neuron device here: what is compiled cannot run or be validated")
        )
    return findings


def _packages(known: Facts) -> Iterator[tuple[bool, str]]:
    oldest, newest = (3, 10), (3, 12)
    if not oldest <= known.python < newest:
        python = ".".join(map(str, known.python))
        yield True, f"{sys.executable} is Python {python}; optimum-neuron runs on 3.10 and 3.11"
    if known.placeholders:
        text = (
            f"{', '.join(known.placeholders)}: the public index has only empty packages of "
            "these names; the real ones come from AWS's own index (see `compilekit doctor`)"
        )
        yield True, text
    if known.torch_neuron:
        yield True, known.torch_neuron
    if known.absent:
        how = "`compilekit doctor` says where they come from"
        yield True, f"not installed for {sys.executable}: {', '.join(known.absent)}; {how}"
    release = known.versions.get("optimum-neuron", "")
    if release and release not in packages.KNOWN:
        tried = ", ".join(packages.KNOWN)
        yield False, f"optimum-neuron {release}: this was tried with {tried} alone"


def need(known: Facts) -> tuple[int, str]:
    """The bytes of memory that compiling takes, and where that number comes from."""
    stated, size = KNOWN_NEEDS[known.is_xl]
    if known.denoiser * 2 >= size:
        return stated, "stated by AWS"
    return max(LEAST, int(stated * known.denoiser / size)), "a guess, by the size of its UNet"


def _space(known: Facts) -> Iterator[str]:
    size, source = need(known)
    if known.memory < size:
        yield (
            f"memory: compiling takes about {size / GB:.0f} GB ({source}), and "
            f"{known.memory / GB:.1f} GB can be had, swap included"
        )
    # The compiled folder holds the weights again, and the compiler's own files are as large.
    if known.disk < 3 * known.weights:
        yield (
            f"disk: about {3 * known.weights / GB:.1f} GB are needed, and "
            f"{known.disk / GB:.1f} GB are free"
        )
