"""What of the vendor's stack is here: versions, what is missing, and what that means. Light."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from compilekit_plugins import elsewhere
from compilekit_plugins.neuron.worker import packages
from compilekit_plugins.neuron.worker.load import has_device

if TYPE_CHECKING:
    from compilekit.steps import Severity

PYTHON = "COMPILEKIT_NEURON_PYTHON"

PRODUCT = Path("/sys/devices/virtual/dmi/id/product_name")
FAMILY = {"inf2": "trn1", "trn1": "trn1", "trn1n": "trn1", "trn2": "trn2"}
COMPILER = ("neuronx-cc", "torch-neuronx", "libneuronxla", "neuronx-distributed")

INSTALL = (
    'make an environment for it alone, since it pins older libraries: "python3.11 -m venv neuron", '
    "then \"neuron/bin/python -m pip install 'optimum-neuron[neuronx,diffusers]==0.4.5'\", "
    "with the Neuron pip repository of AWS's guide as --extra-index-url, and name its interpreter "
    f"in {PYTHON}"
)
DRIVER = "aws-neuronx-dkms and aws-neuronx-runtime-lib, from AWS's package repository"


def python_of(named: str) -> str:
    """The interpreter that the worker runs in."""
    return elsewhere.python_of(named, PYTHON)


def instance() -> str:
    """The kind of Neuron instance that this is; empty if it is none."""
    if not has_device():
        return ""
    try:
        return PRODUCT.read_text(encoding="utf-8").strip().partition(".")[0]
    except OSError:
        return ""


def fingerprint() -> dict[str, str]:
    """What compiled code depends on here."""
    versions = packages.versions()
    del versions["torch"]
    return {**versions, "neuron": instance()}


def missing() -> str:
    """Why a compiled pipeline cannot be loaded by this interpreter; empty if it can."""
    lacks = [*packages.absent(), *packages.placeholders()]
    if lacks:
        return elsewhere.lacking(", ".join(lacks), PYTHON, INSTALL)
    return packages.torch_neuron()


def judge(field: str, built: str, here: str) -> Severity | None:
    """How bad it is that a field differs: NEFFs run with the SDK that made them, or a newer one."""
    if field in COMPILER:
        newer = packages.numbers(built) > packages.numbers(here)
        return "fatal" if not here or newer else "note"
    if field == "neuron":
        return "fatal" if here and FAMILY.get(built) != FAMILY.get(here) else "note"
    if field == "torch":
        older = packages.numbers(here)[:2] < packages.numbers(built)[:2]
        return "fatal" if older else "warning"
    if field in ("optimum-neuron", "optimum", "diffusers", "transformers"):
        return "warning"
    if field in ("cpu", "cpu_flags", "glibc", "libstdcxx", "python"):
        return "note"
    return None


def doctor() -> Iterator[tuple[str, str, str, str]]:
    """What is here of the SDK, and how to get the rest."""
    python = python_of("")
    if elsewhere.is_other(python):
        yield "interpreter", "ok", python, f"named by {PYTHON}; its packages are not shown here"
    where = f"to run, on Inf2 or Trn1: {DRIVER}; to build, none is needed"
    yield elsewhere.row("device", instance(), where)
    empty, absent = packages.placeholders(), packages.absent()
    other = packages.torch_neuron()
    for name in ("optimum-neuron", *packages.SDK):
        if name not in (*empty, *absent) and not (name == "torch-neuronx" and other):
            yield name, "ok", packages.version(name), ""
    lacks = [*absent, *(f"{name} (an empty placeholder is there)" for name in empty)]
    if lacks:
        yield "packages", "absent", "", f"no {', '.join(lacks)}: {INSTALL}"
    if other:
        yield "torch-neuronx", "absent", packages.version("torch-neuronx"), other
    oldest, newest = (3, 10), (3, 12)
    if not oldest <= sys.version_info < newest:
        version = ".".join(map(str, sys.version_info[:2]))
        advice = f"make an environment of 3.10 or 3.11, and name its interpreter in {PYTHON}"
        yield "python", "absent", version, advice
