"""Adapters of tiny pipelines, and what stock diffusers makes of them."""

from __future__ import annotations

import contextlib
import functools
import json
import warnings

import numpy as np
import torch
from support import SAMPLE, draw

import compilekit as ck
from compilekit.testing import tiny_pipeline

FILE = "pytorch_lora_weights.safetensors"


LAYERS = {
    "unet": ["to_q", "to_k", "to_v", "to_out.0"],
    "transformer": ["to_q", "to_k", "to_v"],
    "text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj"],
}


def adapter(folder, family="sd", parts=("unet",), *, rank=4, alpha=None, seed=1, layers=None):
    """Save an adapter of a tiny pipeline, as a training script would."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = trainee(family)
    random = torch.Generator().manual_seed(seed)
    saved = {}
    for part in parts:
        module = getattr(pipe, part)
        targets = layers or LAYERS[part]
        config = LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=targets)
        module.add_adapter(config, "made")
        state = get_peft_model_state_dict(module, adapter_name="made")
        saved[f"{part}_lora_layers"] = {
            name: torch.randn(value.shape, generator=random) * 0.2 for name, value in state.items()
        }
        saved[f"{part}_lora_adapter_metadata"] = module.peft_config["made"].to_dict()
    pipe.save_lora_weights(folder, **saved)
    pipe.unload_lora_weights()
    return folder


@functools.cache
def trainee(family):
    return tiny_pipeline(family)


def apply(steps, family="sd", device="cpu"):
    recipe = ck.Recipe.from_steps(steps, sample=SAMPLE, device=device)
    return ck.apply(recipe, tiny_pipeline(family), progress=False)


def stock(*sources, family="sd", scales=None):
    """A pipeline with adapters, as diffusers itself loads them."""
    pipe = tiny_pipeline(family)
    names = [f"stock_{number}" for number in range(len(sources))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        for name, source in zip(names, sources, strict=True):
            pipe.load_lora_weights(source, adapter_name=name)
    if sources:
        pipe.set_adapters(names, list(scales or [1.0] * len(names)))
    return pipe


@functools.cache
def picture(*sources, family="sd", scales=None):
    """What it draws."""
    return draw(stock(*sources, family=family, scales=scales))


def distance(one, other):
    """How far two pictures are apart, as relative L2."""
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@contextlib.contextmanager
def nothing_is_compiled():
    from torch._dynamo.utils import counters

    from compilekit_plugins.torch_compile.watch import Watch

    watch, graphs = Watch(), counters["stats"]["unique_graphs"]
    with watch.open():
        watch.mark()
        yield
        assert watch.compiled_since_mark() == []
    assert counters["stats"]["unique_graphs"] == graphs


def edited(source, target, edit, *, metadata=True):
    """Another file of an adapter, its tensors by other names."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(source / FILE, "pt") as file:
        said = file.metadata() if metadata else {"format": "pt"}
    tensors = edit(load_file(source / FILE))
    target.mkdir()
    save_file({name: t.contiguous() for name, t in tensors.items()}, target / FILE, metadata=said)
    return target


def trained(source, target, **settings):
    """The same adapter, trained with other settings."""
    from safetensors.torch import load_file, save_file

    said = {"r": 4, "lora_alpha": 4, "target_modules": LAYERS["unet"], **settings}
    text = json.dumps({f"unet.{name}": value for name, value in said.items()})
    target.mkdir()
    tensors = load_file(source / FILE)
    save_file(tensors, target / FILE, metadata={"format": "pt", "lora_adapter_metadata": text})
    return target
