"""`compilekit tune`: the fastest recipe for a model on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from compilekit.cli import options
from compilekit.cli.shared import echo, host_of, print_result, writable
from compilekit.errors import UsageError
from compilekit.recipe.library import names
from compilekit.studies.tune.data import Trial
from compilekit.studies.tune.text import table

SUFFIXES = (".yaml", ".yml")


def run(
    recipe_or_model: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE_OR_MODEL",
            help="A model's folder or hub id; or a recipe with `choices:`, or without steps.",
        ),
    ],
    model: options.Model = None,
    minutes: Annotated[
        float, typer.Option("--minutes", metavar="N", help="For how long to search.")
    ] = 20.0,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The recipe to write."),
    ] = Path("fast.yaml"),
    purpose: Annotated[
        Literal["apply", "build"],
        typer.Option("--for", help="Try code for this process, or for a bundle."),
    ] = "apply",
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="SIZE",
            help='What a trial may take: "8GB", or "90%" of what there is.',
        ),
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(
            "--study",
            metavar="DIR",
            help="Where every trial is kept; a search that was stopped goes on from there. "
            "Left out, beside the recipe: fast.study",
        ),
    ] = None,
    plugin: options.Plugins = None,
    *,
    json: options.Json = False,
) -> None:
    """Find the fastest recipe for a model on this machine, within the budgets of errors.

    Plugins offer steps for this model and this machine; or `choices:` in a recipe name them.
    Each is tried in a process of its own. The best are written as a recipe:
    compilekit tune my-model --minutes 20 --output fast.yaml

    Ctrl-C stops the search, and the same command goes on. Exit code 0 also when nothing is faster.
    """
    from compilekit.api import tune

    recipe, source = _told_apart(recipe_or_model, model)
    with writable(output):
        kept = study or output.with_suffix(".study")
        trials: list[Trial] = []
        try:
            result = tune(
                recipe,
                source,
                minutes=minutes,
                for_=purpose,
                memory=memory,
                study=kept,
                on_trial=trials.append,
                host=host_of(plugin),
            )
        except KeyboardInterrupt:
            if trials:
                echo("\n".join(table(trials, None)))
                echo(f"every trial is kept in {kept}: the same command goes on with them", err=True)
            raise
        result.save(output)
    print_result(result, result.to_dict(), json=json)
    if not json:
        echo(f"\n{output} has the recipe, {kept} every trial")


def _told_apart(first: str, second: str | None) -> tuple[str | None, str | None]:
    """Which of the arguments is the recipe, and which the model."""
    if second is not None:
        return first, second
    is_recipe = first.endswith(SUFFIXES) or first == "-" or first in names()
    if is_recipe and not Path(first).is_dir():
        return first, None
    if not first.strip():
        raise UsageError("name a model: a folder or a hub id")
    return None, first
