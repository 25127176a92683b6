"""One request, from the checks to the folder with recipes in it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from compilekit.workers.faults import MachineFault, check_machine

from . import config, driver, environment, packages, recipes


def answer(request: dict[str, Any], say: Any) -> dict[str, Any]:
    """Look whether this machine will do; warm the pipeline up, and collect its recipes."""
    options, folder = request["options"], Path(request["destination"])
    findings = list(packages.findings(options["engine"]))
    check_machine(findings, lambda text: say(text, note=True), force=request["force"])
    if request["level"]:
        return {}
    scratch = Path.cwd()
    settings = config.read(options["gaudi_config"])
    environment.set_up(
        environment.wanted(options["mode"], settings, scratch, options["cache_size"])
    )
    start = time.perf_counter()
    say("loading the pipeline onto the device")
    running = running_of(folder, request["class"], options, request["dtypes"], request["key"])
    running.warm_up(request["calls"], request["seed"], say)
    driver.flush()
    seconds = time.perf_counter() - start
    say("drawing the sample")
    drawn = _drawn(running, request, scratch / "drawn.npy")
    count = recipes.collect(environment.recipes(), folder)
    if not count:
        raise MachineFault(
            "the driver stored no recipe, so there is nothing to build: "
            f"{environment.CACHE} was {os.environ.get(environment.CACHE)}"
        )
    return {
        "stamps": packages.stamps(),
        "versions": packages.versions(),
        "drawn": drawn,
        "recipes": count,
        "seconds_to_warm_up": seconds,
        "report": running.report(),
    }


def _drawn(running: Any, request: dict[str, Any], path: Path) -> dict[str, Any]:
    """The sample's pictures, once more than it takes to be warm."""
    import numpy as np

    start = time.perf_counter()
    pictures = running.draw(request["sample"], request["seed"])
    if pictures is None:
        return {}
    np.save(path, pictures, allow_pickle=False)
    return {"file": str(path), "seconds": time.perf_counter() - start}


def running_of(
    folder: Path, kind: str, options: dict[str, Any], dtypes: dict[str, str], key: str
) -> Any:
    """The folder's pipeline on the device, by the engine that the options name."""
    if options["engine"] == "optimum":
        from .optimum import Running

        return Running(folder, kind, options, dtypes)
    # Stock diffusers is run by the interpreter that asked, which has compilekit.
    from compilekit_plugins.gaudi.running import Running as Native

    return Native(folder, options, dtypes, key)
