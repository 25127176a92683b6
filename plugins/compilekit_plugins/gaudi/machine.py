"""What of the vendor's stack is here, what is missing, and what that means. Light: no torch."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import compilekit as ck
from compilekit.workers.faults import Fault, MachineFault
from compilekit_plugins import elsewhere
from compilekit_plugins.gaudi.options import Gaudi
from compilekit_plugins.gaudi.worker import config, environment, packages

if TYPE_CHECKING:
    from compilekit.steps import Purpose, Severity

PYTHON = "COMPILEKIT_GAUDI_PYTHON"
STAMPS = ("synapse", "hpu_driver", "hpu_plugin", "hpu_torch", "hpu", "torch")

T = TypeVar("T")
VARIABLES: dict[str, str] = {}
"""What stays set in this process, by the names that reports use."""


def python_of(named: str) -> str:
    """The interpreter that builds with optimum-habana run in."""
    return elsewhere.python_of(named, PYTHON)


def told(function: Callable[[], T], key: str = "") -> T:
    """Call something of the worker's; its faults become compilekit's errors."""
    at = f"{key}: " if key else ""
    try:
        return function()
    except MachineFault as error:
        raise ck.MachineError(f"{at}{error}") from error
    except Fault as error:
        raise ck.StepError(f"{at}{error}") from error


@functools.cache
def folder() -> Path:
    """A folder of this process, on the local disk, for op lists and recipes."""
    path = Path(tempfile.mkdtemp(prefix="compilekit-gaudi-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def prepare(options: Gaudi, purpose: Purpose) -> None:
    """Set what the driver package reads, and import it. Builds do that in their worker."""
    if purpose != "build":
        told(lambda: _prepare(options, purpose))


def _prepare(options: Gaudi, purpose: Purpose) -> None:
    grave = []
    for is_grave, text in packages.findings(options.engine):
        if is_grave:
            grave.append(text)
        else:
            warnings.warn(text, stacklevel=2)
    if grave:
        raise MachineFault("; ".join(grave))
    size = options.cache_size if purpose == "load" else 0
    variables = environment.wanted(options.mode, config.read(options.gaudi_config), folder(), size)
    VARIABLES.update({name: variables[name] for name in environment.set_up(variables)})


def move(pipeline: Any) -> None:
    """Move a pipeline to the HPU, and switch no migration on.

    By default diffusers sets variables for the whole process, and runs code for CUDA on the HPU.
    """
    pipeline.to("hpu", hpu_migration=False)


def wait() -> None:
    """Wait for the HPU, if the driver package is imported, which makes it known to torch."""
    import torch

    hpu = getattr(torch, "hpu", None)
    if hpu is not None and hpu.is_available():
        hpu.synchronize()


def missing() -> str:
    """Why a bundle cannot be loaded by this interpreter; empty if it can."""
    if packages.version(packages.PLUGIN):
        return ""
    return elsewhere.lacking(packages.PLUGIN, PYTHON, packages.CONTAINER)


def judge(field: str, built: str, here: str) -> Severity | None:
    """The step itself compares its stamps when it loads, and does what the recipe says."""
    del built, here
    if field in (*STAMPS, "cpu", "cpu_flags", "glibc", "libstdcxx", "python"):
        return "note"
    return "warning" if field in ("diffusers", "transformers") else None


def ingredients(options: Gaudi) -> dict[str, str] | None:
    """What recipes are made of beside the model and the options."""
    if options.engine == "optimum" and elsewhere.is_other(python_of(options.python)):
        return None  # what the other interpreter has is not known here
    return {**packages.stamps(), **packages.versions()}


def doctor() -> Iterator[tuple[str, str, str, str]]:
    """What is here of the stack, and how to get the rest."""
    kind, driver = packages.device()
    where = "hl-smi, of Intel's driver, shows none"
    yield elsewhere.row("device", kind and f"{kind} {driver}".rstrip(), where)
    plugin, release = map(packages.version, (packages.PLUGIN, packages.OPTIMUM))
    yield elsewhere.row(packages.PLUGIN, plugin, packages.CONTAINER)
    advice = f"for `engine: optimum` alone: {packages.INSTALL}"
    yield elsewhere.row(packages.OPTIMUM, release, advice)
    # The rows above say what is absent.
    absent = (f"{packages.PLUGIN} is not installed", "no Gaudi device")
    for _, text in packages.findings("optimum" if release else "native"):
        if not text.startswith(absent):
            yield "versions", "absent", "", text
