"""Fixes that are needed while a model is exported."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from .fixes import fix, replaced


@contextlib.contextmanager
def _inputs_named(wrapper: Any, names: list[str]) -> Iterator[None]:
    """Let a wrapper of upstream's take its inputs for others, for one call."""
    own = wrapper.input_names
    wrapper.input_names = names
    try:
        yield
    finally:
        wrapper.input_names = own


@fix(
    "lcm-guidance",
    when="export",
    wrong="the UNet's wrapper drops `timestep_cond`, so the guidance scale of a latent consistency "
    "model changes nothing",
)
def _lcm_guidance() -> None:
    from optimum.exporters.neuron import model_wrappers

    def make(forward: Any) -> Any:
        def mended(self: Any, *inputs: Any) -> Any:
            names = list(self.input_names)
            if "timestep_cond" not in names or len(names) != len(inputs):
                return forward(self, *inputs)
            given = dict(zip(names, inputs, strict=True))
            condition = given.pop("timestep_cond")
            hook = self.model.register_forward_pre_hook(
                lambda _, args, kwargs: (args, {**kwargs, "timestep_cond": condition}),
                with_kwargs=True,
            )
            with hook, _inputs_named(self, list(given)):
                return forward(self, *given.values())

        return mended

    replaced(model_wrappers.UnetNeuronWrapper, "forward", make)


@fix(
    "ip-adapter-embeds",
    when="export",
    wrong="`tensor or other` in the UNet's wrapper raises where an IP-Adapter takes image "
    "embeddings",
)
def _ip_adapter_embeds() -> None:
    from optimum.exporters.neuron import model_wrappers

    def make(forward: Any) -> Any:
        def mended(self: Any, *inputs: Any) -> Any:
            # The other name is read where the first one is absent, and then nothing is ambiguous.
            names = [
                "image_enc_hidden_states" if name == "image_embeds" else name
                for name in self.input_names
            ]
            with _inputs_named(self, names):
                return forward(self, *inputs)

        return mended

    replaced(model_wrappers.UnetNeuronWrapper, "forward", make)


@fix(
    "attention-scale",
    when="export",
    wrong="the attention for Stable Diffusion has the scale of heads of 64 written into it, and is "
    "wrong for others; it is put into diffusers for good",
)
def _attention_scale() -> None:
    from optimum.exporters.neuron import utils

    utils.get_attention_scores_sd = utils.get_attention_scores_sdxl


def set_softmax(*, fused: bool) -> None:
    """Let the compiler fuse softmax, or not: upstream switches it on without asking."""
    wanted = "1" if fused else "0"

    from optimum.exporters.neuron import __main__ as exporter

    def make(function: Any) -> Any:
        def mended(*args: Any, **kwargs: Any) -> Any:
            for name in ("NEURON_FUSE_SOFTMAX", "NEURON_CUSTOM_SILU"):
                os.environ[name] = wanted
            return function(*args, **kwargs)

        return mended

    replaced(exporter, "_get_submodels_and_neuron_configs_for_diffusion", make)
