"""Stock diffusers on "hpu": entry points captured or compiled, in this process."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from compilekit.model import Model
from compilekit_plugins.gaudi.captured import Captured, Inside
from compilekit_plugins.gaudi.graphs import Compiled, Graph
from compilekit_plugins.gaudi.guard import Guard
from compilekit_plugins.gaudi.options import Gaudi
from compilekit_plugins.gaudi.worker import config, driver


class Native:
    """The entry points of a model, each with something in its place."""

    def __init__(self, model: Model, options: Gaudi, key: str) -> None:
        self._model = model
        self._options = options
        self._inside = Inside()
        self.guard = Guard(key, options.recompiles)
        self.entries: dict[str, Captured] = {}
        self._autocast = bool(config.read(options.gaudi_config).get("use_torch_autocast"))
        if options.mode == "graphs":
            driver.need_graphs()

    def install(self, components: Iterable[str], named: Iterable[str] = ()) -> None:
        """Put something in the place of every entry point of these components.

        named: those that must be captured; of others that cannot be it is only said.
        """
        must = {*named, *self._model.denoisers}
        make = Graph if self._options.mode == "graphs" else Compiled
        for entry in itertools.chain.from_iterable(map(self._model.entry_points, components)):
            if entry.name not in self.entries:
                is_named = entry.name in must
                self.entries[entry.name] = Captured(
                    entry, self._options, make, self.guard, self._inside, self._around, is_named
                )
                entry.replace(self.entries[entry.name])

    def _around(self) -> contextlib.AbstractContextManager[Any]:
        """Mixed precision, where the Gaudi configuration says so."""
        if self._autocast:
            return torch.autocast("hpu", dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def warm_up(
        self,
        calls: Sequence[Mapping[str, Any]],
        run: Callable[[Mapping[str, Any]], Any],
        say: Callable[[str], None],
    ) -> None:
        """Run each call, in order; from then on nothing more should be compiled."""
        for number, call in enumerate(calls, 1):
            say(f"warming up {number} of {len(calls)}: {shown(call)}")
            run(call)
        self.guard.seal()

    def captured(self) -> dict[str, list[str]]:
        """The entry points that have graphs, by component."""
        names: dict[str, list[str]] = {}
        for name, entry in self.entries.items():
            if entry.counts.captures:
                names.setdefault(name.partition(".")[0], []).append(name)
        return names

    def eager(self) -> dict[str, str]:
        """The entry points that run as they are, and why."""
        return {
            name: "; ".join(entry.counts.eager)
            for name, entry in self.entries.items()
            if entry.counts.eager
        }

    def report(self) -> dict[str, object]:
        """For the step's row."""
        counts = {name: entry.counts.to_dict() for name, entry in self.entries.items()}
        cache = driver.cache_counts()
        return {
            # Those that were called at all.
            "graphs": {name: count for name, count in counts.items() if any(count.values())},
            **self.guard.report(),
            **({"recipe_cache": cache} if cache else {}),
        }


def shown(call: Mapping[str, Any]) -> str:
    """A call, by its sizes."""
    sizes = {k: v for k, v in call.items() if isinstance(v, int) and k != "num_inference_steps"}
    prompts = call.get("prompt")
    if isinstance(prompts, list):
        sizes["prompts"] = len(prompts)
    return ", ".join(f"{name}={value}" for name, value in sizes.items()) or "the sample"
