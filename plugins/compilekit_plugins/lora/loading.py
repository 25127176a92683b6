"""Loading adapters into the components that a step names, and refusing what fits none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import compilekit as ck
from compilekit.steps import ALL_COMPONENTS
from compilekit_plugins.lora.layers import can_swap, layers_of, ranks_in, some
from compilekit_plugins.lora.reading import State, looked_at, quiet

if TYPE_CHECKING:
    from torch import nn

    from compilekit.model import Model
    from compilekit_plugins.lora import Adapter

REASON_LENGTH = 300


class Loader:
    """Loads adapters into a pipeline.

    modules: the components that have adapter layers by now.
    skipped: what of the files was left out, and why.
    notes: a line about each adapter.
    partly: whether the step names components, so that what is for others is left out.
    """

    def __init__(self, model: Model, context: ck.StepContext, hotswap: int | None) -> None:
        self._key = context.step.key
        self._pipeline = model.subject
        self._hotswap = hotswap
        self._wanted = {name: model.module(name) for name in context.components}
        self.partly = ALL_COMPONENTS not in context.step.components
        self._others = {n: m for n, m in model.modules.items() if n not in self._wanted}
        self.modules: dict[str, nn.Module] = {}
        self.skipped: dict[str, str] = {}
        self.notes: list[str] = []
        self._check(model)

    def _check(self, model: Model) -> None:
        kind = type(self._pipeline).__name__
        if not hasattr(self._pipeline, "load_lora_weights"):
            raise ck.StepError(f"{self._key}: a {kind} cannot load LoRA adapters")
        inner = sorted(set(self._wanted) - set(model.modules))
        if inner:
            raise ck.StepError(
                f"{self._key}: {inner[0]} is part of a component; name the whole one"
            )
        held = next((name for name, module in model.modules.items() if layers_of(module)), None)
        if held is not None:
            raise ck.StepError(
                f"{self._key}: {held} has adapters already: call `unload_lora_weights()` first, "
                "and name them all in this step"
            )

    def load(self, adapter: Adapter, file: Path) -> None:
        """Load one adapter; one that does not fit raises before anything changes."""
        where = f"{self._key}: {adapter.source}"
        with quiet(), looked_at(self._pipeline, lambda state: self._chosen(state, adapter)):
            try:
                if self._hotswap:
                    self._pipeline.enable_lora_hotswap(target_rank=self._hotswap)
                self._pipeline.load_lora_weights(
                    str(file.parent),
                    weight_name=file.name,
                    adapter_name=adapter.name,
                    use_safetensors=True,
                )
            except ck.CompilekitError:
                raise
            except Exception as error:
                reason = " ".join(str(error).split())[:REASON_LENGTH]
                raise ck.StepError(f"{where} cannot be loaded: {reason}") from error
        self.modules = {name: each for name, each in self._wanted.items() if layers_of(each)}

    def _chosen(self, state: State, adapter: Adapter) -> State:
        """Of what an adapter's file says, what is for the components that the step names."""
        where = f"{self._key}: {adapter.source}"
        ranks = {name: ranks_in(state, name, module) for name, module in self._wanted.items()}
        fit: dict[str, dict[str, int]] = {}
        for component, found in ranks.items():
            known = {path for path, _ in self._wanted[component].named_modules()}
            fit[component] = {path: rank for path, rank in found.items() if path in known}
            strange = [path for path in found if path not in known]
            if strange:
                self._left_out(adapter, component, f"has no layer {some(strange)}")
        if not any(fit.values()):
            components = ", ".join(self._wanted) if self.partly else "this pipeline"
            raise ck.StepError(
                f"{where} matches no layer of {components}; its keys are {some(sorted(state))}"
            )
        if self._hotswap:
            self._check_swaps(fit, self._hotswap, where)
        sizes = {rank for found in fit.values() for rank in found.values()}
        span = f"{min(sizes)} to {max(sizes)}" if len(sizes) > 1 else f"{min(sizes)}"
        self.notes.append(f"{adapter.name}: {adapter.source}, rank {span}, scale {adapter.scale:g}")
        if not self.partly:
            return state
        for other in self._others:
            if ranks_in(state, other, self._others[other]):
                self._left_out(adapter, other, "is not named by the step")
        return {key: value for key, value in state.items() if key.split(".")[0] in self._wanted}

    def _left_out(self, adapter: Adapter, component: str, why: str) -> None:
        self.skipped[f"{adapter.name} in {component}"] = f"{component} {why}"

    def _check_swaps(self, fit: dict[str, dict[str, int]], limit: int, where: str) -> None:
        for component, found in fit.items():
            if found and not can_swap(self._wanted[component]):
                raise ck.StepError(
                    f"{where} is also for {component}, where adapters cannot be swapped: name the "
                    "components to leave that part out (`components: [unet]`, say), or leave "
                    "`hotswap` out"
                )
            largest = max(found.values(), default=0)
            if largest > limit:
                raise ck.StepError(
                    f"{where} has rank {largest} in {component}, over hotswap {limit}"
                )
