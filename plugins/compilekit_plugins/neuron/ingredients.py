"""What a build is made of beside the model and the options: adapters' files, the compiler."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import compilekit as ck
from compilekit_plugins.neuron import machine
from compilekit_plugins.neuron.options import Neuron

WORKER = Path(__file__).with_name("worker")


def ingredients(options: Neuron) -> dict[str, str] | None:
    """Digests of the files that options name, and the versions of the other interpreter."""
    found = {f"lora {n}": _digest(each.source) for n, each in enumerate(options.lora)}
    if options.ip_adapter is not None:
        found["ip_adapter"] = _digest(options.ip_adapter.source)
    if options.unet:
        found["unet"] = _digest(options.unet)
    if "" in found.values():
        return None  # a name on the hub: whether it is as it was, only the hub knows
    return {**found, **versions(options.python)}


def versions(named: str) -> dict[str, str]:
    """The versions that the worker's interpreter has."""
    python = machine.python_of(named)
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


def _digest(source: str) -> str:
    """The digest of a file, or of all in a folder; empty if it is neither."""
    path = Path(source)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in (each for each in files if each.is_file()):
        digest.update(str(file.relative_to(path.parent)).encode() + b"\0")
        with file.open("rb") as opened:
            for piece in iter(lambda: opened.read(1 << 22), b""):
                digest.update(piece)
    return digest.hexdigest() if path.exists() else ""
