"""What this machine is: versions, device and instruction set. It names what numbers stand for."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "torchao", "triton")


def versions() -> dict[str, str]:
    """The versions of the packages that matter, where they are installed. Loads none of them."""
    found = {}
    for name in ("compilekit", *PACKAGES):
        version = installed_version(name)
        if version is not None:
            found[name] = version
    return found


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe(device: str) -> dict[str, str]:
    """Versions and hardware, for a report. Loads torch."""
    import torch

    found = {
        **versions(),
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        "cpu": f"{cpu_name()}, {cores()} cores",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
    }
    if device == "cuda" and torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        found["gpu"] = f"{torch.cuda.get_device_name()} (sm_{major}{minor})"
        found["cuda"] = str(torch.version.cuda or torch.version.hip)
    return found
