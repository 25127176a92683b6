"""What this machine is: versions, device and instruction set. It names what numbers stand for."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from pathlib import Path

from compilekit.base.control_groups import cores

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "torchao", "triton")

EXTENSIONS = (
    "sse", "ssse", "avx", "fma", "f16c", "bmi", "abm", "popcnt", "movbe", "adx", "amx", "gfni",
    "vaes", "vpclmulqdq", "pclmulqdq", "aes", "sha_ni", "movdir", "serialize", "xsave", "fsgsbase",
    "rdrand", "rdseed", "clwb", "clflushopt", "prfchw", "3dnowprefetch", "lahf_lm", "rdpid", "pku",
    "neon", "asimd", "sve", "bf16", "i8mm", "fp", "atomics", "crc32",
)  # fmt: skip
"""What `-march=native` may use: beginnings of the names that Linux has for them."""


def versions() -> dict[str, str]:
    """The versions of the packages that matter, where they are installed. Loads none of them."""
    installed = {name: installed_version(name) for name in ("compilekit", *PACKAGES)}
    return {name: version for name, version in installed.items() if version is not None}


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's model name."""
    text = _read("/proc/cpuinfo")
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return ("" if text else platform.processor()) or platform.machine()


def _read(path: str) -> str:
    """A file of the kernel; "" where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def cpu_flags() -> str:
    """The processor's instruction set extensions that compilers make use of, sorted."""
    for line in _read("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return " ".join(sorted(f for f in value.split() if f.startswith(EXTENSIONS)))
    return ""


def libstdcxx() -> str:
    """The version of the C++ library that this process has loaded, or "" where none is."""
    for line in _read("/proc/self/maps").splitlines():
        path = line.partition("/")[2]
        if "libstdc++.so" in path:
            return Path(f"/{path}").resolve().name.partition(".so.")[2]
    return ""


def fingerprint(device: str) -> dict[str, str]:
    """What compiled code may depend on, of this machine and its software. Loads torch."""
    import torch

    fields = {
        "platform": f"{sys.platform}-{platform.machine()}",
        "cpu_flags": cpu_flags(),
        "cpu": cpu_name(),
        "glibc": platform.libc_ver()[1],
        "libstdcxx": libstdcxx(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    for name in ("diffusers", "transformers"):
        fields[name] = installed_version(name) or ""
    if device.startswith("cuda") and torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability(device)
        fields["gpu"] = torch.cuda.get_device_name(device)
        fields["sm"] = f"{major}.{minor}"
        fields["cuda"] = str(torch.version.cuda or torch.version.hip)
        from compilekit.base.torch_internals import driver_version

        fields["driver"] = driver_version()
    return fields


def describe(device: str) -> dict[str, str]:
    """Versions and hardware, for a report. Loads torch."""
    import torch

    fields = {
        **versions(),
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        "cpu": f"{cpu_name()}, {cores()} cores",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
    }
    if device == "cuda" and torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        fields["gpu"] = f"{torch.cuda.get_device_name()} (sm_{major}{minor})"
        fields["cuda"] = str(torch.version.cuda or torch.version.hip)
    return fields
