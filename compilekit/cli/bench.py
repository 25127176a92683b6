"""`compilekit bench`: whether a recipe is faster, and by how much, measured in turn."""

from __future__ import annotations

from typing import Annotated

import typer

from compilekit.cli import options
from compilekit.cli.shared import host_of, print_result, recipe_of
from compilekit.errors import VerificationError
from compilekit.studies.bench.result import Bench


def run(
    recipe: options.Recipe,
    model: options.Model = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="RECIPE",
            help="Another recipe to compare with. Left out, the model as loaded.",
        ),
    ] = None,
    max_slowdown: Annotated[
        str | None,
        typer.Option(
            "--max-slowdown",
            metavar="SHARE",
            help='How much longer the recipe may take, "5%" or 0.05: exit code 1 if it takes more '
            "for sure.",
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            "--batch", metavar="N", help="A batch to measure; may be repeated. Left out, 1."
        ),
    ] = None,
    runs: Annotated[
        int, typer.Option("--runs", metavar="N", help="Pairs of runs that are timed, at least.")
    ] = 5,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds",
            metavar="SECONDS",
            help="How long to go on with a batch while it is not clear which is faster.",
        ),
    ] = 60.0,
    steps: options.Steps = None,
    plugin: options.Plugins = None,
    *,
    json: options.Json = False,
) -> None:
    """Time a recipe beside the model as loaded, or beside another recipe, in turn.

    The first line says which is faster, by how much, and how sure that is. For CI:
    compilekit bench new.yaml my-model --against old.yaml --max-slowdown 5%

    The result is verified first: exit code 1 when a budget is broken, and nothing is timed.
    """
    from compilekit.api import bench

    try:
        result = bench(
            recipe_of(recipe, steps),
            model,
            batches=tuple(batch or (1,)),
            runs=runs,
            against=against,
            max_slowdown=max_slowdown,
            seconds=seconds,
            host=host_of(plugin),
        )
    except VerificationError as error:
        if isinstance(error.report, Bench):
            print_result(error.report, error.report.to_dict(), json=json)
        raise
    print_result(result, result.to_dict(), json=json)
