"""`compilekit build`: run a recipe ahead of deployment, and write a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compilekit.bundle.manifest import Manifest
from compilekit.cli import options
from compilekit.cli.inspect import summary
from compilekit.cli.shared import echo, host_of, print_json, recipe_of
from compilekit.errors import CompilekitError
from compilekit.report import Report


def run(
    recipe: options.Recipe,
    model: options.Model = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            parser=options.output_folder,
            help="The bundle's folder, which must not be there yet; left out, the recipe's name.",
        ),
    ] = None,
    steps: options.Steps = None,
    plugin: options.Plugins = None,
    *,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Use the build cache, and add to it.")
    ] = True,
    force: options.Force = False,
    strict: options.Strict = False,
    timings: options.Timings = False,
    json: options.Json = False,
) -> None:
    """Compile a model ahead of time by a recipe, and write a bundle.

    The bundle is loaded once and checked before it gets its name. Load it with
    `compilekit.load` or `compilekit run`. Exit code 1 when a step fails or a budget is broken.
    """
    from compilekit.api import build
    from compilekit.report.table import print_report, warn_if_slower

    try:
        built = build(
            recipe_of(recipe, steps),
            model,
            output,
            host=host_of(plugin),
            cache=cache,
            force=force,
            strict=strict,
        )
    except CompilekitError as error:
        if isinstance(error.report, Report) and not json:
            print_report(error.report, timings=timings)
        raise
    if json:
        numbers = {"path": str(built.path), "seconds": built.seconds, "reused": built.reused}
        print_json({**numbers, **summary(Manifest.read(built.path))})
        return
    print_report(built.report, timings=timings)
    echo(str(built))
    warn_if_slower(built.report)
