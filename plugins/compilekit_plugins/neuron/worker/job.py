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
        for check in (level,) if level else LEVELS[:2]:
            getattr(self, f"_check_{check}")()
        return {"notes": self.notes} if level else self._build()

    def note(self, text: str) -> None:
        """Tell what is worth a line that stays."""
        self.notes.append(text)
        self.say(text, note=True)

    def _before_imports(self) -> None:
        """What libraries look at once, while they are imported."""
        is_trn2 = self.options.get("instance_type") == "trn2"
        os.environ["NEURON_PLATFORM_TARGET_OVERRIDE"] = "trn2" if is_trn2 else "trn1"
        # Nothing is fetched behind the user's back: what is needed lies in folders.
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

    def _check_host(self) -> None:
        from . import host

        self.say("looking at this machine")
        findings = host.findings(host.facts(Path(self.request["model"])))
        check_machine(findings, self.note, force=bool(self.request.get("force")))

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

        start = time.perf_counter()
        export(self, Path("compiled-only"))
        self.note(f"compiled, and not kept, in {time.perf_counter() - start:.0f} s")

    def _build(self) -> dict[str, Any]:
        from .draw import draw
        from .export import export

        def drawn(kind: str, compiled: Path | None, file: str) -> dict[str, Any]:
            if not self.request.get("sample"):
                return {}
            self.say(f"drawing the sample, {kind}")
            return draw(self, compiled, file)

        destination = Path(self.request["destination"])
        return {
            "reference": drawn("not compiled", None, "reference.npy"),
            **export(self, destination),
            "drawn": drawn("compiled", destination, "drawn.npy"),
            "versions": packages.versions(),
            "notes": self.notes,
        }
