"""What of the vendor's stack is here: versions, device, and which go together. Light."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from collections.abc import Iterator

PLUGIN = "habana-torch-plugin"
"""The driver package's distribution. Others bring a `habana_frameworks` too."""

OPTIMUM = "optimum-habana"
VENDOR = (PLUGIN, OPTIMUM, "optimum", "diffusers", "transformers", "torch")
INSTALL = f"pip install {OPTIMUM}==1.21.2"

CONTAINER = (
    "it comes with Intel's Gaudi container or installer, with a torch of its own: no package index "
    "has it"
)

VALIDATED = {
    "1.4": "1.8", "1.5": "1.9", "1.6": "1.10", "1.7": "1.11", "1.8": "1.12", "1.9": "1.13",
    "1.10": "1.14", "1.11": "1.15", "1.12": "1.16", "1.13": "1.17", "1.14": "1.18",
    "1.15": "1.19", "1.16": "1.20", "1.17": "1.20", "1.18": "1.20", "1.18.1": "1.21",
    "1.19": "1.22", "1.20": "1.23", "1.21": "1.24",
}  # fmt: skip
"""The SynapseAI that each release of optimum-habana says it was validated with."""

TORCH = {"1.24.0": "2.10", "1.24.1": "2.11"}
"""The torch that a SynapseAI brings, where that is known."""

MODELS = {"HL-205": "gaudi", "HL-225": "gaudi2", "HL-325": "gaudi3"}


def version(name: str) -> str:
    """The installed version of a distribution; empty if it is not there."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def versions() -> dict[str, str]:
    """The versions of everything that matters."""
    return {name: version(name) for name in VENDOR}


def synapse(plugin: str) -> str:
    """The SynapseAI that a version of the driver package belongs to."""
    return ".".join(plugin.partition("+")[0].split(".")[:3])


def device() -> tuple[str, str]:
    """The kind of device and the version of its driver, by the vendor's tool; empty if none."""
    tool = shutil.which("hl-smi")
    if tool is None:
        return "", ""
    try:
        done = subprocess.run(  # noqa: S603 - the vendor's tool, from the PATH
            [tool, "-Q", "name,driver_version", "-f", "csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "", ""
    name, _, driver = done.stdout.partition("\n")[0].partition(",")
    return MODELS.get(name.strip(), name.strip()), driver.strip()


def stamps() -> dict[str, str]:
    """What stored recipes depend on: SynapseAI, driver, driver package, torch, kind of device."""
    plugin = version(PLUGIN)
    kind, driver = device()
    return {
        "synapse": synapse(plugin),
        "hpu_driver": driver,
        "hpu_plugin": plugin,
        "hpu_torch": version("torch"),
        "hpu": kind,
    }


def validated(release: str) -> str:
    """The SynapseAI that a release of optimum-habana was validated with; empty if unknown."""
    parts = release.split(".")
    return VALIDATED.get(".".join(parts[:3])) or VALIDATED.get(".".join(parts[:2]), "")


def findings(engine: str) -> Iterator[tuple[bool, str]]:
    """What does not go together, or is not there, and whether that is grave."""
    plugin, torch = version(PLUGIN), version("torch")
    if not plugin:
        yield True, f"{PLUGIN} is not installed: {CONTAINER}"
    like = TORCH.get(synapse(plugin), "")
    if like and not torch.startswith(f"{like}."):
        text = (
            f"SynapseAI {synapse(plugin)} belongs to Intel's torch {like}, and torch "
            f"{torch} is installed: go back to the container's own"
        )
        yield True, text
    kind, driver = device()
    if plugin and not kind:
        yield True, "no Gaudi device: hl-smi is not there, or shows none"
    elif driver.split(".")[:2] != plugin.split(".")[:2] and driver and plugin:
        yield False, f"the driver is {driver}, and {PLUGIN} is {plugin}: they belong together"
    if engine == "optimum":
        yield from _optimum(version(OPTIMUM), plugin)


def _optimum(release: str, plugin: str) -> Iterator[tuple[bool, str]]:
    if not release:
        yield True, f"{OPTIMUM} is not installed: {INSTALL}"
        return
    like = validated(release)
    if not like:
        yield True, f"{OPTIMUM} {release} is not known here; 1.4 to 1.21 are: {INSTALL}"
    elif plugin and synapse(plugin).split(".")[:2] != like.split("."):
        fits = [
            name for name, stack in VALIDATED.items() if synapse(plugin).startswith(f"{stack}.")
        ]
        other = f"; {fits[-1]} goes with it" if fits else ""
        text = (
            f"{OPTIMUM} {release} was validated with SynapseAI {like}, and "
            f"{synapse(plugin)} is here{other}"
        )
        yield True, text
