"""Building a bundle through the worker, and loading one: stamps compared, recipes, warm-up."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import compilekit as ck
from compilekit_plugins import elsewhere
from compilekit_plugins.gaudi import machine
from compilekit_plugins.gaudi.guard import Watched
from compilekit_plugins.gaudi.stage import request_of
from compilekit_plugins.gaudi.worker import config, driver, environment, packages, recipes
from compilekit_plugins.gaudi.worker.job import running_of

if TYPE_CHECKING:
    from compilekit.model import Model
    from compilekit_plugins.gaudi.options import Gaudi

WORKER = Path(__file__).with_name("worker")

NAMES = {
    "synapse": "SynapseAI",
    "hpu_driver": "the driver",
    "hpu_plugin": packages.PLUGIN,
    "hpu_torch": "torch",
    "hpu": "the kind of device",
}


def build(model: Model, options: Gaudi, destination: Path, context: ck.WholeContext) -> ck.Part:
    """Write the folder, and let the worker warm it up on the device."""
    import numpy as np

    reference = None
    if not context.preflight and context.calls:
        context.progress("drawing the sample with stock diffusers, on the CPU")
        reference = getattr(context.run(context.sample), "images", None)
    request = request_of(model, options, destination, context)
    python = machine.python_of(options.python) if options.engine == "optimum" else sys.executable
    answer = elsewhere.answer(WORKER, request, python, context, options.time_limit)
    if context.preflight:
        return ck.Part()
    drawn = answer["drawn"]
    return ck.Part(
        details={
            "engine": options.engine,
            "class": request["class"],
            "dtypes": request["dtypes"],
            "stamps": answer["stamps"],
            "versions": answer["versions"],
            "recipes": answer["recipes"],
            "graphs": answer["report"].get("graphs", {}),
            "seconds_to_warm_up": answer["seconds_to_warm_up"],
            "seconds_after": drawn.get("seconds", 0.0),
        },
        fingerprint=answer["stamps"],
        reference=reference,
        drawn=np.load(drawn["file"], allow_pickle=False) if drawn else None,
    )


def load(part: ck.StoredPart, options: Gaudi, key: str) -> Any:
    """Make a bundle ready, or say why its recipes do not fit."""
    is_fresh = _compare(part, options)
    cache = environment.recipes()
    if is_fresh and cache is not None:
        recipes.spread(part.folder, cache)
    kind, dtypes = part.pipeline or part.details["class"], part.details["dtypes"]
    values = options.model_dump(mode="json")
    running = machine.told(lambda: running_of(part.folder, kind, values, dtypes, key), key)
    driver.flush()
    before = driver.compilations()
    calls, seed = recipes.calls(part.folder)
    machine.told(lambda: running.warm_up(calls, seed, lambda _: None), key)
    after = driver.compilations()
    if before is None or after is None:
        warnings.warn(
            f"{part.folder}: whether its recipes serve is not known: this driver package does not "
            "count what it compiles",
            stacklevel=2,
        )
    elif is_fresh and after > before:
        _act(
            options,
            f"{part.folder}: {after - before} of its graphs were compiled anew, though the stack "
            "is the one that built it: its recipes do not serve",
        )
    if options.engine == "optimum":
        Watched(running.subject, key, options.recompiles)
    return running.subject


def _compare(part: ck.StoredPart, options: Gaudi) -> bool:
    """Whether the recipes are for the stack that is here; if not, what the recipe says is done."""
    built, present = part.details["stamps"], packages.stamps()
    lines = [
        f"\n  {NAMES[name]}: built with {built.get(name) or 'none'}, here {present[name] or 'none'}"
        for name in NAMES
        if built.get(name) != present[name]
    ]
    settings = json.loads((part.folder / config.NAME).read_text(encoding="utf-8"))
    if settings != config.read(options.gaudi_config):
        lines.append(f"\n  the Gaudi configuration {options.gaudi_config}: it is another by now")
    if lines:
        _act(options, f"{part.folder}: its recipes are for another stack:{''.join(lines)}")
    return not lines


def _act(options: Gaudi, message: str) -> None:
    if options.stale == "error":
        raise ck.MismatchError(
            f"{message}\nbuild it again here; with `stale: recompile` it would be compiled now"
        )
    warnings.warn(f"{message}\nit is compiled now, as `stale: recompile` says", stacklevel=2)
