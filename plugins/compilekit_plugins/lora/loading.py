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
        self._named = {name: model.module(name) for name in context.components}
        self.partly = ALL_COMPONENTS not in context.step.components
        self._others = {n: m for n, m in model.modules.items() if n not in self._named}
        self.modules: dict[str, nn.Module] = {}
        self.skipped: dict[str, str] = {}
        self.notes: list[str] = []
        self._check(model)

    def _check(self, model: Model) -> None:
        kind = type(self._pipeline).__name__
        if not hasattr(self._pipeline, "load_lora_weights"):
            raise ck.StepError(f"{self._key}: a {kind} cannot load LoRA adapters")
        inner = sorted(set(self._named) - set(model.modules))
        if inner:
            raise ck.StepError(
                f"{self._key}: {inner[0]} is part of a component; name the whole one"
            )
        name = next((name for name, module in model.modules.items() if layers_of(module)), None)
        if name is not None:
            raise ck.StepError(
                f"{self._key}: {name} has adapters already: call `unload_lora_weights()` first, "
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
        self.modules = {name: part for name, part in self._named.items() if layers_of(part)}

    def _chosen(self, state: State, adapter: Adapter) -> State:
        """Of what an adapter's file says, what is for the components that the step names."""
        where = f"{self._key}: {adapter.source}"
        fit: dict[str, dict[str, int]] = {}
        for component, module in self._named.items():
            ranks = ranks_in(state, component, module)
            known = dict(module.named_modules())
            fit[component] = {path: rank for path, rank in ranks.items() if path in known}
            strange = [path for path in ranks if path not in known]
            if strange:
                self._left_out(adapter, component, f"has no layer {some(strange)}")
        if not any(fit.values()):
            components = ", ".join(self._named) if self.partly else "this pipeline"
            raise ck.StepError(
                f"{where} matches no layer of {components}; its keys are {some(sorted(state))}"
            )
        if self._hotswap:
            self._check_swaps(fit, self._hotswap, where)
        sizes = {rank for ranks in fit.values() for rank in ranks.values()}
        span = f"{min(sizes)} to {max(sizes)}" if len(sizes) > 1 else f"{min(sizes)}"
        self.notes.append(f"{adapter.name}: {adapter.source}, rank {span}, scale {adapter.scale:g}")
        if not self.partly:
            return state
        for other, module in self._others.items():
            if ranks_in(state, other, module):
                self._left_out(adapter, other, "is not named by the step")
        return {key: value for key, value in state.items() if key.split(".")[0] in self._named}

    def _left_out(self, adapter: Adapter, component: str, why: str) -> None:
        self.skipped[f"{adapter.name} in {component}"] = f"{component} {why}"

    def _check_swaps(self, fit: dict[str, dict[str, int]], limit: int, where: str) -> None:
        for component, ranks in fit.items():
            if ranks and not can_swap(self._named[component]):
                raise ck.StepError(
                    f"{where} is also for {component}, where adapters cannot be swapped: name the "
                    "components to leave that part out (`components: [unet]`, say), or leave "
                    "`hotswap` out"
                )
            largest = max(ranks.values(), default=0)
            if largest > limit:
                raise ck.StepError(
                    f"{where} has rank {largest} in {component}, over hotswap {limit}"
                )
