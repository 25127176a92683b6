"""`compilekit plan`: check a recipe, and show what it would do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from compilekit.cli import options
from compilekit.cli.shared import host_of, print_result, recipe_of


def run(
    recipe: options.Recipe,
    purpose: Annotated[
        Literal["apply", "build"], typer.Option("--for", help="What the plan is for.")
    ] = "apply",
    steps: options.Steps = None,
    plugin: options.Plugins = None,
    machine: Annotated[
        Path | None,
        typer.Option(
            "--machine",
            metavar="FILE",
            help="Advise for another machine: what `compilekit doctor --json` wrote there.",
        ),
    ] = None,
    *,
    strict: options.Strict = False,
    json: options.Json = False,
) -> None:
    """Check a recipe against the installed plugins. Loads no torch and no weights.

    Every mistake is reported, with file, line and column; exit code 2. Advice says what will be
    slow on the machine.
    """
    from compilekit.api.job import refuse_advice
    from compilekit.base.machine import Machine
    from compilekit.plan.plan import plan

    there = None if machine is None else Machine.read(machine)
    checked = plan(recipe_of(recipe, steps), host=host_of(plugin), for_=purpose, machine=there)
    facts = {
        **checked.to_dict(),
        "digest": checked.digest,
        "warnings": checked.warnings,
        "advice": list(checked.advice),
    }
    print_result(checked, facts, json=json)
    if strict:
        refuse_advice(checked)
