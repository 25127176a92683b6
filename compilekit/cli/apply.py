"""`compilekit apply`: run a recipe's sample before and after, and save the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compilekit.cli import options
from compilekit.cli.shared import echo, echo_json, host_of, prepared, recipe_of
from compilekit.errors import CompilekitError
from compilekit.report import Report


def run(
    recipe: options.Recipe,
    model: options.Model = None,
    output: options.Output = Path("compilekit-out"),
    steps: options.Steps = None,
    plugin: options.Plugins = None,
    *,
    strict: options.Strict = False,
    timings: options.Timings = False,
    json: options.Json = False,
) -> None:
    """Apply a recipe to a model in this process; save before and after images and a report.

    Exit code 1 when a step fails or a budget is broken; the report is saved all the same.
    """
    from compilekit.report.table import warn_if_slower

    with prepared(output):
        from compilekit.api import apply

        try:
            applied = apply(recipe_of(recipe, steps), model, host=host_of(plugin), strict=strict)
        except CompilekitError as error:
            if isinstance(error.report, Report):
                _show(error.report, output, as_json=json, timings=timings)
            raise
        saved = _save_images(applied.before, applied.after, output)
        _show(applied.report, output, as_json=json, timings=timings)
    if not json:
        echo(f"saved in {output}: {', '.join([*saved, 'report.json'])}")
    warn_if_slower(applied.report)


def _save_images(before: Any, after: Any, output: Path) -> list[str]:
    from compilekit.measure.images import comparison, grid, to_pil
    from compilekit.subject.sample import images_of

    old, new = images_of(before), images_of(after)
    if old is None or new is None:
        return []
    pictures = {
        "before.png": grid(to_pil(old)),
        "after.png": grid(to_pil(new)),
        "comparison.png": comparison(old, new),
    }
    for name, picture in pictures.items():
        picture.save(output / name)
    return list(pictures)


def _show(report: Report, output: Path, *, as_json: bool, timings: bool) -> None:
    if as_json:
        echo_json(report.to_json())
    else:
        from compilekit.report.table import print_report

        print_report(report, timings=timings)
    report.save(output / "report.json")
