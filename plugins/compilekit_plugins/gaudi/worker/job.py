"""One request, from the checks to the folder with recipes in it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from compilekit.workers.faults import check_machine

from . import config, environment, packages, recipes


class Job:
    """What is asked, and where it is told how it goes."""

    def __init__(self, request: dict[str, Any], say: Any) -> None:
        self.request = request
        self.say = say
        self.options: dict[str, Any] = request["options"]
        self.folder = Path(request["destination"])

    def run(self) -> dict[str, Any]:
        """Answer it."""
        self._check()
        if self.request["level"]:
            return {}
        scratch = Path.cwd()
        environment.set_up(
            environment.wanted(
                self.options["mode"],
                config.read(self.options["gaudi_config"]),
                scratch,
                self.options["cache_size"],
            )
        )
        start = time.perf_counter()
        self.say("loading the pipeline onto the device")
        running = self._running()
        running.warm_up(self.request["calls"], self.request["seed"], self.say)
        warm = time.perf_counter() - start
        self.say("drawing the sample")
        drawn = self._drawn(running, scratch / "drawn.npy")
        return {
            "stamps": packages.stamps(),
            "versions": packages.versions(),
            "recipes": recipes.collect(environment.recipes(), self.folder),
            "seconds_to_warm_up": warm,
            "drawn": drawn,
            "report": running.report(),
        }

    def _check(self) -> None:
        """Look whether this machine will do."""
        found = list(packages.findings(self.options["engine"]))
        check_machine(found, lambda text: self.say(text, note=True), force=self.request["force"])

    def _running(self) -> Any:
        if self.options["engine"] == "optimum":
            from .optimum import Running

            return Running(self.folder, self.request["class"], self.options, self.request["dtypes"])
        # Stock diffusers is run by the interpreter that asked, which has compilekit.
        from compilekit_plugins.gaudi.running import Running as Native

        return Native(self.folder, self.options, self.request["dtypes"], self.request["key"])

    def _drawn(self, running: Any, path: Path) -> dict[str, Any]:
        """The sample's pictures, once more than it takes to be warm."""
        import numpy as np

        start = time.perf_counter()
        pictures = running.draw(self.request["sample"], self.request["seed"])
        if pictures is None:
            return {}
        np.save(path, pictures, allow_pickle=False)
        return {"file": str(path), "seconds": time.perf_counter() - start}
