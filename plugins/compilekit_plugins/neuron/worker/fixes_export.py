"""Fixes that are needed while a model is exported."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from .fix import fix, replace

UNET_FORWARD = ("optimum.exporters.neuron.model_wrappers:UnetNeuronWrapper", "forward")


@contextlib.contextmanager
def _inputs_named(wrapper: Any, names: list[str]) -> Iterator[None]:
    """Let a wrapper of upstream's take its inputs for others, for one call."""
    before = wrapper.input_names
    wrapper.input_names = names
    try:
        yield
    finally:
        wrapper.input_names = before


@fix(
    "lcm-guidance",
    when="export",
    place=UNET_FORWARD,
    wrong="the UNet's wrapper drops `timestep_cond`, so the guidance scale of a latent consistency "
    "model changes nothing",
)
def _lcm_guidance(forward: Callable[..., Any], wrapper: Any, *inputs: Any) -> Any:
    names = list(wrapper.input_names)
    if "timestep_cond" not in names or len(names) != len(inputs):
        return forward(wrapper, *inputs)
    tensors = dict(zip(names, inputs, strict=True))
    condition = tensors.pop("timestep_cond")
    hook = wrapper.model.register_forward_pre_hook(
        lambda _, args, kwargs: (args, {**kwargs, "timestep_cond": condition}), with_kwargs=True
    )
    with hook, _inputs_named(wrapper, list(tensors)):
        return forward(wrapper, *tensors.values())


@fix(
    "ip-adapter-embeds",
    when="export",
    place=UNET_FORWARD,
    wrong="`tensor or other` in the UNet's wrapper raises where an IP-Adapter takes image "
    "embeddings",
)
def _ip_adapter_embeds(forward: Callable[..., Any], wrapper: Any, *inputs: Any) -> Any:
    # The other name is read where the first one is absent, and then nothing is ambiguous.
    names = [
        "image_enc_hidden_states" if name == "image_embeds" else name
        for name in wrapper.input_names
    ]
    with _inputs_named(wrapper, names):
        return forward(wrapper, *inputs)


@fix(
    "attention-scale",
    when="export",
    place=("optimum.exporters.neuron.utils", "get_attention_scores_sd"),
    wrong="the attention for Stable Diffusion has the scale of heads of 64 written into it, and is "
    "wrong for others; it is put into diffusers for good",
)
def _attention_scale(_: Callable[..., Any], *args: Any) -> Any:
    from optimum.exporters.neuron import utils

    return utils.get_attention_scores_sdxl(*args)


def set_softmax(*, fused: bool) -> None:
    """Let the compiler fuse softmax, or not: upstream switches it on without asking."""
    switches = dict.fromkeys(("NEURON_FUSE_SOFTMAX", "NEURON_CUSTOM_SILU"), "1" if fused else "0")

    def mended(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        os.environ.update(switches)
        return function(*args, **kwargs)

    exporter = "optimum.exporters.neuron.__main__"
    replace(exporter, "_get_submodels_and_neuron_configs_for_diffusion", mended)
