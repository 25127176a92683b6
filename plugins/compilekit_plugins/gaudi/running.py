"""A folder's pipeline on the device, warmed up: in the worker that builds, and when loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from compilekit.model import Model
from compilekit_plugins.gaudi import machine
from compilekit_plugins.gaudi.native import Native
from compilekit_plugins.gaudi.options import Gaudi
from compilekit_plugins.gaudi.worker import recipes

MODEL = "model"


class Running:
    """Stock diffusers, with graphs in the places of entry points."""

    def __init__(
        self, folder: Path, options: Mapping[str, Any], dtypes: Mapping[str, str], key: str
    ) -> None:
        import diffusers

        from compilekit_plugins.diffusers_internals import dtype_keyword

        self._folder = folder
        kinds = {name: getattr(torch, kind) for name, kind in dtypes.items()}
        with recipes.no_bars():
            self.subject: Any = diffusers.DiffusionPipeline.from_pretrained(
                folder / MODEL, **{dtype_keyword(): kinds}
            )
        machine.move(self.subject)
        self._model = Model(self.subject)
        self._native = Native(self._model, Gaudi.model_validate(dict(options)), key)
        self._native.install(self._model.modules)

    def warm_up(self, calls: Sequence[Mapping[str, Any]], seed: int, say: Any) -> None:
        """Run the warm-up list, in its order."""
        self._native.warm_up(calls, lambda call: self.draw(call, seed), say)

    def draw(self, call: Mapping[str, Any], seed: int) -> Any:
        """The pictures of one call; None if it gives none."""
        result = self._model.run(recipes.opened(call, self._folder), seed)
        return getattr(result, "images", None)

    def report(self) -> dict[str, Any]:
        """What was captured, replayed and compiled."""
        return self._native.report()
