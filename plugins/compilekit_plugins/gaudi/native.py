"""Stock diffusers on "hpu": entry points captured or compiled, in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from compilekit.model import EntryPoint, Model
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
        wanted = {*named, *self._model.denoisers}
        make = Graph if self._options.mode == "graphs" else Compiled
        for name in components:
            for entry in self._model.entry_points(name):
                if entry.name not in self.entries:
                    self._put(entry, make, named=entry.name in wanted)

    def _put(self, entry: EntryPoint, make: Any, *, named: bool) -> None:
        stand_in = Captured(
            entry, self._options, make, self.guard, self._inside, self._around, named=named
        )
        entry.replace(stand_in)
        self.entries[entry.name] = stand_in

    @contextlib.contextmanager
    def _around(self) -> Iterator[None]:
        """Mixed precision, where the Gaudi configuration says so."""
        if not self._autocast:
            yield
            return
        with torch.autocast("hpu", dtype=torch.bfloat16):
            yield

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

    def used(self) -> dict[str, dict[str, Any]]:
        """What the entry points did that were called."""
        found = {name: each.counts.to_dict() for name, each in self.entries.items()}
        return {name: said for name, said in found.items() if any(said.values())}

    def captured(self) -> dict[str, list[str]]:
        """The entry points that have graphs, by component."""
        found: dict[str, list[str]] = {}
        for name, each in self.entries.items():
            if each.counts.captures:
                found.setdefault(name.partition(".")[0], []).append(name)
        return found

    def left(self) -> dict[str, str]:
        """The entry points that run as they are, and why."""
        return {
            name: "; ".join(each.counts.eager)
            for name, each in self.entries.items()
            if each.counts.eager
        }

    def report(self) -> dict[str, object]:
        """For the step's row."""
        cache = driver.cache_counts()
        return {
            "graphs": self.used(),
            "graph_compilations": driver.compilations(),
            "compiled_after_warm_up": self.guard.again,
            **({"recipe_cache": cache} if cache else {}),
        }


def shown(call: Mapping[str, Any]) -> str:
    """A call, by its sizes."""
    sizes = {k: v for k, v in call.items() if isinstance(v, int) and k != "num_inference_steps"}
    prompts = call.get("prompt")
    if isinstance(prompts, list):
        sizes["prompts"] = len(prompts)
    return ", ".join(f"{name}={value}" for name, value in sizes.items()) or "the sample"
