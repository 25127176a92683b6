"""`compilekit doctor`: what this machine has, what it lacks, and how to get it."""

from __future__ import annotations

import shutil
from pathlib import Path

import typer

from compilekit.cli.shared import JsonOption, PluginOption, print_rows


def run(plugin: PluginOption = None, *, json: JsonOption = False) -> None:
    """Look at packages, devices, the C++ compiler and the plugins; say what is missing.

    Exit code 3 when compilekit itself cannot work here.
    """
    rows = [*_packages(), *_torch(), _compiler(), *_plugins(plugin or [])]
    print_rows(["what", "state", "found", "advice"], rows, json=json)
    if any(row[1] == "missing" for row in rows):
        raise typer.Exit(3)


def _packages() -> list[tuple[str, str, str, str]]:
    """The packages that compilekit's own metadata asks for."""
    import importlib.metadata

    from packaging.requirements import Requirement

    rows = []
    for text in importlib.metadata.requires("compilekit") or []:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            rows.append((wanted.name, "missing", "", f'pip install "{wanted}"'))
            continue
        fits = wanted.specifier.contains(found, prereleases=True)
        advice = "" if fits else f'pip install "{wanted}"'
        rows.append((wanted.name, "ok" if fits else "missing", found, advice))
    return rows


def _torch() -> list[tuple[str, str, str, str]]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return [("torch import", "missing", str(error), "reinstall torch")]
    rows = [("cpu", "ok", torch.backends.cpu.get_cpu_capability(), "")]
    for device in ("cuda", "mps", "xpu"):
        module = getattr(torch, device, None)
        present = module is not None and module.is_available()
        found = torch.cuda.get_device_name() if present and device == "cuda" else ""
        rows.append((device, "ok" if present else "absent", found, ""))
    return rows


def _compiler() -> tuple[str, str, str, str]:
    found = shutil.which("g++") or shutil.which("clang++")
    if found:
        return ("C++ compiler", "ok", found, "")
    return ("C++ compiler", "absent", "", "torch_compile on the CPU needs g++")


def _plugins(files: list[Path]) -> list[tuple[str, str, str, str]]:
    from compilekit.base.environment import installed_version
    from compilekit.plan.whole import doctor_rows
    from compilekit.plugin.host import load_host

    host = load_host(files)
    rows = []
    for plugin in host.plugins.values():
        step = host.descriptions.get(plugin.name)
        lacks = [name for name in (step.packages if step else ()) if not installed_version(name)]
        if plugin.error:
            rows.append((f"plugin {plugin.name}", "broken", plugin.origin, plugin.error))
        elif lacks:
            how = step.extra if step and step.extra else " ".join(lacks)
            rows.append((f"plugin {plugin.name}", "absent", plugin.origin, f'pip install "{how}"'))
        else:
            rows.append((f"plugin {plugin.name}", "ok", plugin.origin, ""))
    return [*rows, *doctor_rows(host)]
