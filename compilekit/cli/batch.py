"""`compilekit batch`: the largest batch that fits, and the fastest."""

from __future__ import annotations

from typing import Annotated

import typer

from compilekit.cli import options
from compilekit.cli.shared import host_of, print_result, recipe_of
from compilekit.studies.batch.data import Batches, BatchTrial


def run(
    recipe: options.Recipe,
    model: options.Model = None,
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
    steps: options.Steps = None,
    plugin: options.Plugins = None,
    *,
    json: options.Json = False,
) -> None:
    """Find the largest batch that fits: twice as many while they fit, then halves.

    Each trial applies the recipe in a process of its own, runs the sample with so many images,
    and measures. Ctrl-C ends it, and shows what was found. Exit code 3 when not even one fits.
    """
    from compilekit.api import largest_batch

    trials: list[BatchTrial] = []
    try:
        batches = largest_batch(
            recipe_of(recipe, steps),
            model,
            memory=memory,
            limit=limit,
            timeout=timeout,
            on_trial=trials.append,
            host=host_of(plugin),
        )
    except BaseException:
        if any(trial.fits for trial in trials):
            batches = Batches(sorted(trials, key=lambda trial: trial.batch), limit)
            print_result(batches, batches.to_dict(), json=json)
        raise
    print_result(batches, batches.to_dict(), json=json)
