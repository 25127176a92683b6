"""Swapping adapters in compiled code: what would compile again, or half work, raises before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import compilekit as ck
from compilekit_plugins.lora.fitting import misfit
from compilekit_plugins.lora.layers import layers_of
from compilekit_plugins.lora.reading import State, looked_at, quiet

if TYPE_CHECKING:
    from torch import nn


@dataclass(eq=False, repr=False)
class Swaps:
    """Stands in for two methods of a pipeline whose one adapter can be swapped.

    `load_lora_weights(other, hotswap=True)`: diffusers deletes the adapter where another one has
    layers that it has not, and compiles again where its rank is larger.
    `set_adapters(name, scale)`: diffusers puts numbers in the place of tensors, so that everything
    is compiled again, and reckons with the first adapter's own scale, whichever is in.

    name, rank: of the adapter that is there, and the largest one that it is ready for.
    partly: take of an adapter only what is for these components, as the step did with the first.
    """

    pipeline: Any
    name: str
    rank: int
    modules: Mapping[str, nn.Module]
    partly: bool

    def __post_init__(self) -> None:
        self._load = self.pipeline.load_lora_weights
        self._set = self.pipeline.set_adapters
        self._note_scales()

    def install(self) -> None:
        """Take the place of the pipeline's own methods, on this pipeline alone."""
        self.pipeline.load_lora_weights = self.load_lora_weights
        self.pipeline.set_adapters = self.set_adapters

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: Any,
        adapter_name: str | None = None,
        hotswap: bool = False,
        **keywords: Any,
    ) -> None:
        """As of diffusers; a swap that does not fit raises, and leaves all as it was."""
        source = pretrained_model_name_or_path_or_dict
        if not hotswap:
            self._load(source, adapter_name=adapter_name, **keywords)
            return
        name = adapter_name or self.name
        with quiet(), self._kept(), looked_at(self.pipeline, self._fitting):
            self._load(source, adapter_name=name, hotswap=True, **keywords)
        self._note_scales()

    def set_adapters(self, adapter_names: Any, adapter_weights: Any = None) -> None:
        """As of diffusers, with the scales written into the tensors that compiled code reads."""
        self._set(adapter_names, adapter_weights)
        for layer, (scale, tensor) in self._scales.items():
            value = layer.scaling.get(self.name, tensor)
            if value is tensor:
                continue
            layer.set_scale(self.name, 1.0)
            first = layer.scaling[self.name]
            tensor.fill_(scale * value / first if first else 0.0)
            layer.scaling[self.name] = tensor

    def _note_scales(self) -> None:
        """The scale that the adapter itself has in each layer, and the tensor that holds it."""
        self._scales = {
            layer: (float(layer.scaling[self.name]), layer.scaling[self.name])
            for module in self.modules.values()
            for layer in layers_of(module).values()
            if self.name in layer.scaling
        }

    def _fitting(self, state: State) -> State:
        """Refuse an adapter that does not fit, before anything is done with it."""
        if self.partly:
            state = {k: v for k, v in state.items() if k.split(".")[0] in self.modules}
        why = misfit(state, self.modules, self.name, self.rank)
        if why:
            raise ck.UsageError(f"this adapter cannot be swapped in: {why}")
        return state

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        """Put the adapter that is in back where diffusers deletes it, as it does on an error."""
        components: list[Any] = list(self.modules.values())
        tables = [component.peft_config for component in components]
        for layer in self._scales:
            names = (*layer.adapter_layer_names, *layer.other_param_names)
            tables += [getattr(layer, name) for name in names]
        entries = [(table, table[self.name]) for table in tables if self.name in table]
        try:
            yield
        except BaseException:
            for table, value in entries:
                table[self.name] = value
            # One list for all, as in `set_adapters`: compiled code looks whether it is.
            active = [self.name]
            for layer in self._scales:
                layer.set_adapter(active)
            raise
