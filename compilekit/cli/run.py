"""`compilekit run`: load a bundle, run its sample or another call, and save the images."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from compilekit.base.progress import Progress
from compilekit.cli import options
from compilekit.cli.shared import echo, host_of, prepared
from compilekit.errors import UsageError


def run(
    bundle: options.Bundle,
    output: options.Output = Path("compilekit-out"),
    argument: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="An argument of the call in place of the sample's; may be repeated.",
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="The prompt, in place of the sample's.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The seed, in place of the sample's.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help='Which device, where there are several: "cuda:1".')
    ] = None,
    on_uncovered: Annotated[
        Literal["error", "eager"],
        typer.Option(help="What a call does that no part was compiled for."),
    ] = "error",
    pipeline: Annotated[
        str | None,
        typer.Option(
            help="The class of pipeline, where the bundle's components serve others too: "
            "StableDiffusionXLImg2ImgPipeline, say."
        ),
    ] = None,
    key: options.Keys = None,
    plugin: options.Plugins = None,
) -> None:
    """Load a bundle, and run its sample once.

    `--set height=96 --set width=96` and the like change the call. Exit code 3 when the
    bundle was built for another machine.
    """
    arguments = dict(map(_parsed, argument or []))
    if prompt is not None:
        arguments["prompt"] = prompt
    if seed is not None:
        arguments["seed"] = seed
    with prepared(output):
        from compilekit.api import bundle_of, load

        start = time.perf_counter()
        subject = load(
            bundle,
            device=device,
            on_uncovered=on_uncovered,
            pipeline=pipeline or "",
            trust=key,
            host=host_of(plugin),
        )
        load_seconds = time.perf_counter() - start
        loaded = bundle_of(subject)
        from compilekit.load.run import run_sample

        start = time.perf_counter()
        with Progress().stage("running the sample", brief=True):
            result = run_sample(subject, loaded, arguments)
        seconds = time.perf_counter() - start
        saved = _save(result, output)
        eager = sum(counts.eager for counts in loaded.counts().values())
        note = f"; {eager} calls ran eagerly" if eager else ""
        echo(f"loaded in {load_seconds:.2f} s, ran in {seconds:.2f} s{note}")
        if saved:
            echo(f"saved {saved}")


def _parsed(text: str) -> tuple[str, Any]:
    from compilekit.recipe.nodes import parse

    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UsageError(f'--set {text}: write NAME=VALUE, "height=96" say')
    return name.strip(), parse(value, "--set").data


def _save(result: Any, output: Path) -> str:
    from compilekit.measure.images import grid, to_pil
    from compilekit.subject.sample import images_of

    images = images_of(result)
    if images is None:
        return ""
    path = output / "image.png"
    grid(to_pil(images)).save(path)
    return str(path)
