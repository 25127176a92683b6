"""One request, from the checks to the compiled folder."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from compilekit.workers.faults import Fault, check_machine

from . import packages
from .model import refuse_unknown

LEVELS = ("host", "trace", "compile")


class Job:
    """What is asked, and where it is told how it goes."""

    def __init__(self, request: dict[str, Any], say: Any) -> None:
        self.request = request
        self.say = say
        self.options: dict[str, Any] = request.get("options", {})
        self.notes: list[str] = []

    def run(self) -> dict[str, Any]:
        """Answer it."""
        if self.request["do"] == "versions":
            return {"interpreter": sys.version, **packages.versions()}
        self._before_imports()
        refuse_unknown(self.request["class"])
        level = self.request.get("level", "")
        for each in LEVELS[:2] if not level else (level,):
            getattr(self, f"_check_{each}")()
        return {"notes": self.notes} if level else self._build()

    def note(self, text: str) -> None:
        """Tell what is worth a line that stays."""
        self.notes.append(text)
        self.say(text, note=True)

    def _before_imports(self) -> None:
        """What libraries look at once, while they are imported."""
        os.environ["NEURON_PLATFORM_TARGET_OVERRIDE"] = {"trn2": "trn2"}.get(
            self.options.get("instance_type", "inf2"), "trn1"
        )
        # Nothing is fetched behind the user's back: what is needed lies in folders.
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

    def _check_host(self) -> None:
        from . import host

        self.say("looking at this machine")
        facts = host.facts(Path(self.request["model"]), self.options)
        force = bool(self.request.get("force"))
        check_machine(host.findings(facts), self.note, force=force)

    def _check_trace(self) -> None:
        from .trace import check

        self.say("tracing every part on the CPU")
        faults, looked = check(self)
        if faults:
            lines = "".join(f"\n  {text}" for text in faults)
            raise Fault(f"the model cannot be compiled as it is:{lines}")
        self.note(f"traced on the CPU: {', '.join(looked)}")

    def _check_compile(self) -> None:
        from .export import export

        folder = Path("compiled-only")
        start = time.perf_counter()
        export(self, folder)
        seconds = time.perf_counter() - start
        self.note(f"compiled, and not kept, in {seconds:.0f} s")

    def _build(self) -> dict[str, Any]:
        from .draw import draw
        from .export import export

        reference: dict[str, Any] = {}
        if self.request.get("sample"):
            self.say("drawing the sample, not compiled")
            reference = draw(self, None, "reference.npy")
        made = export(self, Path(self.request["destination"]))
        drawn: dict[str, Any] = {}
        if self.request.get("sample"):
            self.say("drawing the sample, compiled")
            drawn = draw(self, Path(self.request["destination"]), "drawn.npy")
        return {
            **made,
            "versions": packages.versions(),
            "reference": reference,
            "drawn": drawn,
            "notes": self.notes,
        }
