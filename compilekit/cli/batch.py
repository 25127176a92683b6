"""`compilekit batch`: the largest batch that fits, and the fastest."""

from __future__ import annotations

from typing import Annotated

import typer

from compilekit.cli.shared import (
    JsonOption,
    ModelArgument,
    PluginOption,
    RecipeArgument,
    StepsOption,
    print_result,
    recipe_of,
)
from compilekit.studies.batch.data import Batches, BatchTrial


def run(
    recipe: RecipeArgument,
    model: ModelArgument = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="SIZE",
            help='What a trial may take: "8GB", or "90%" of what there is. Left out, all of a '
            "GPU, or what the machine has free.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", help="The largest batch to try.")
    ] = 64,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", help="What a trial may take of time."),
    ] = None,
    steps: StepsOption = None,
    plugin: PluginOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """Find the largest batch that fits: twice as many while they fit, then halves.

    Each trial applies the recipe in a process of its own, runs the sample with so many images,
    and measures. Ctrl-C ends it, and shows what was found. Exit code 3 when not even one fits.
    """
    from compilekit.api import largest_batch
    from compilekit.plugin.host import load_host

    tried: list[BatchTrial] = []
    try:
        found = largest_batch(
            recipe_of(recipe, steps),
            model,
            memory=memory,
            limit=limit,
            timeout=timeout,
            on_trial=tried.append,
            host=load_host(plugin or []),
        )
    except BaseException:
        if any(trial.fits for trial in tried):
            found = Batches(sorted(tried, key=lambda trial: trial.batch), limit)
            print_result(found, found.to_dict(), json=json)
        raise
    print_result(found, found.to_dict(), json=json)
