"""`compilekit doctor`: what this machine has, what it lacks, and how to get it."""

from __future__ import annotations

import shutil
from pathlib import Path

import typer

from compilekit.base.environment import installed_version
from compilekit.base.machine import FACTS, MACHINE, Machine, keep, this_machine
from compilekit.base.progress import Progress
from compilekit.cli import options
from compilekit.cli.shared import echo, host_of, print_json, print_table
from compilekit.errors import UsageError

COLUMNS = ("what", "state", "found", "advice")


def run(plugin: options.Plugins = None, *, json: options.Json = False) -> None:
    """Look at packages, devices, the C++ compiler and the plugins; say what is missing.

    Then measure how fast this machine computes, in about five seconds. The rates are kept: `plan`
    and `apply` advise by them. With --json the last row holds the facts of the machine, and
    `compilekit plan --machine FILE` reads them elsewhere. Exit code 3 when compilekit itself cannot
    work here.
    """
    rows = [*_packages(), *_torch(), _compiler(), *_plugins(plugin)]
    can_measure = all(row[:2] != ("torch import", "missing") for row in rows)
    with Progress().stage("measuring this machine", brief=True):
        here, faults = _measured() if can_measure else (this_machine(), [])
    rows += faults
    if json:
        facts = {"what": MACHINE, "state": "ok", "found": here.cpu, "advice": ""}
        listed = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        print_json([*listed, {**facts, FACTS: here.model_dump(mode="json")}])
    else:
        print_table(COLUMNS, rows)
        echo(f"\n{here}")
    if any(row[1] == "missing" for row in rows):
        raise typer.Exit(3)


Row = tuple[str, str, str, str]


def _measured() -> tuple[Machine, list[Row]]:
    """The machine, and a row if what was measured cannot be kept: it is shown all the same."""
    from compilekit.measure.rates import measured_machine

    here = measured_machine()
    try:
        keep(here)
    except UsageError as error:
        return here, [("kept rates", "absent", "", str(error))]
    return here, []


def _packages() -> list[Row]:
    """The packages that compilekit's own metadata asks for."""
    import importlib.metadata

    from packaging.requirements import Requirement

    rows = []
    for text in importlib.metadata.requires("compilekit") or []:
        package = Requirement(text)
        if package.marker is not None and not package.marker.evaluate({"extra": ""}):
            continue
        version = installed_version(package.name) or ""
        fits = version and package.specifier.contains(version, prereleases=True)
        advice = "" if fits else f'pip install "{package}"'
        rows.append((package.name, "ok" if fits else "missing", version, advice))
    return rows


def _torch() -> list[Row]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return [("torch import", "missing", str(error), "reinstall torch")]
    rows = [("cpu", "ok", torch.backends.cpu.get_cpu_capability(), "")]
    for device in ("cuda", "mps", "xpu"):
        module = getattr(torch, device, None)
        present = module is not None and module.is_available()
        name = torch.cuda.get_device_name() if present and device == "cuda" else ""
        rows.append((device, "ok" if present else "absent", name, ""))
    return rows


def _compiler() -> Row:
    if path := shutil.which("g++") or shutil.which("clang++"):
        return ("C++ compiler", "ok", path, "")
    return ("C++ compiler", "absent", "", "torch_compile on the CPU needs g++")


def _plugins(files: list[Path] | None) -> list[Row]:
    from compilekit.plan.whole import doctor_rows

    host = host_of(files)
    rows = []
    for plugin in host.plugins.values():
        step = host.descriptions.get(plugin.name)
        state, advice = ("broken", plugin.error) if plugin.error else ("ok", "")
        if step is not None and step.lacks:
            state, advice = "absent", step.how_to_install
        rows.append((f"plugin {plugin.name}", state, plugin.origin, advice))
    return [*rows, *doctor_rows(host)]
