"""What a build is made of beside the model and the options: adapters' files, the compiler."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import compilekit as ck
from compilekit_plugins.neuron import machine
from compilekit_plugins.neuron.options import Neuron

WORKER = Path(__file__).with_name("worker")


def files(options: Neuron) -> list[str]:
    """The files, folders and hub ids that options name."""
    image = options.ip_adapter.source if options.ip_adapter else ""
    sources = (*(adapter.source for adapter in options.lora), image, options.unet)
    return list(filter(None, sources))


def ingredients(options: Neuron) -> dict[str, str]:
    """The versions that the worker's interpreter has, and this one's."""
    python, ask = machine.python_of(options.python), {"do": "versions"}
    try:
        with tempfile.TemporaryDirectory() as folder:
            versions = ck.run_worker(WORKER, ask, python=python, folder=folder, time_limit=120)
    except ck.CompilekitError as error:
        raise ck.MachineError(f"{python}: cannot be asked for its packages: {error}") from error
    return {**versions, "here": sys.version}
