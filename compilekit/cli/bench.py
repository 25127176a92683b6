"""`compilekit bench`: latency at batch 1, throughput at others."""

from __future__ import annotations

from typing import Annotated

import typer

from compilekit.cli import options
from compilekit.cli.shared import host_of, print_result, recipe_of


def run(
    recipe: options.Recipe,
    model: options.Model = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            "--batch", metavar="N", help="A batch to measure; may be repeated. Left out, 1."
        ),
    ] = None,
    runs: Annotated[int, typer.Option("--runs", metavar="N", help="Runs that are timed.")] = 5,
    steps: options.Steps = None,
    plugin: options.Plugins = None,
    *,
    json: options.Json = False,
) -> None:
    """Apply a recipe, then time its sample: the latency of one, the throughput of a batch.

    The result is verified first: exit code 1 when a budget is broken, and nothing is timed.
    """
    from compilekit.api import bench

    result = bench(
        recipe_of(recipe, steps),
        model,
        batches=tuple(batch or (1,)),
        runs=runs,
        host=host_of(plugin),
    )
    print_result(result, result.to_dict(), json=json)
