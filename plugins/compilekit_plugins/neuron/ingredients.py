"""What a build is made of beside the model and the options: adapters' files, the compiler."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import compilekit as ck
from compilekit_plugins.neuron import machine
from compilekit_plugins.neuron.options import Neuron

WORKER = Path(__file__).with_name("worker")


def files(options: Neuron) -> list[str]:
    """The files, folders and hub ids that options name."""
    image = [options.ip_adapter.source] if options.ip_adapter else []
    return [*(each.source for each in options.lora), *image, *filter(None, [options.unet])]


def ingredients(options: Neuron) -> dict[str, str]:
    """The versions that the worker's interpreter has, and this one's."""
    python = machine.python_of(options.python)
    code = (
        "import importlib.util as u, json, sys; "
        "s = u.spec_from_file_location('p', sys.argv[1]); m = u.module_from_spec(s); "
        "s.loader.exec_module(m); print(json.dumps([sys.version, m.versions()]))"
    )
    try:
        done = subprocess.run(  # noqa: S603 - the interpreter that the user named
            [python, "-c", code, str(WORKER / "packages.py")],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        version, found = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise ck.MachineError(f"{python}: cannot be asked for its packages: {error}") from error
    return {"interpreter": str(version), **found, "here": sys.version}
