"""Combinations that fail without a word elsewhere: made to work, or refused with the reason."""

from __future__ import annotations

import re

import pytest
import torch
from support import SAMPLE
from torch import nn

import compilekit as ck


def refused(steps: str, device: str = "cuda") -> list[str]:
    """What the plan says, without the places."""
    with pytest.raises(ck.RecipeError) as raised:
        ck.plan(ck.Recipe.from_steps(steps, device=device, sample=SAMPLE))
    lines = str(raised.value).splitlines()
    return [re.sub(r"^\S+:\d+:\d+: ", "", line) for line in lines]


def test_quantising_comes_before_compiling():
    said = refused("torch_compile{components=unet}, torchao{components=unet, config=int8_weight}")
    assert said == [
        "steps[1].torchao must come before steps[0].torch_compile on unet: it changes weights, "
        "which compiled code does not see",
        "The right order is: torchao(unet), torch_compile(unet).",
    ]


def test_eager_dynamic_int8_on_cuda_is_refused():
    (said,) = refused("torchao_int8{components=unet}")
    assert said == (
        'steps[0].torchao_int8 needs a later step that makes unet "compiled", and there is none. '
        "Steps that give it: torch_compile"
    )


def test_quantised_weights_are_not_moved_between_compiled_blocks():
    both = "torchao{components=unet, config=int8_weight}, memory{components=unet, offload=group}"
    said = refused(f"{both}, torch_compile{{components=unet}}")
    assert said[0].startswith("steps[1].memory must come before steps[0].torchao on unet: it confl")
    assert said[-1].startswith("No order of these steps was found to work")
    said = refused(
        "torchao{components=unet, config=int8_weight}, memory{offload=sequential}, "
        "torch_compile{components=unet}"
    )
    assert said[0].endswith('it conflicts with "offloaded_inside", which steps[1].memory gives')


def test_what_is_moved_layer_by_layer_is_not_compiled_as_a_whole():
    said = refused("memory{offload=sequential}, torch_compile{components=unet}")
    assert said[0].startswith("steps[1].torch_compile")
    assert '"offloaded_inside"' in said[0]


def test_compiling_comes_after_offloading():
    said = refused("torch_compile{components=unet}, memory{offload=model}")
    assert said[-1] == "The right order is: memory(the pipeline), torch_compile(unet)."


@pytest.mark.parametrize("first", ["qkv_fusion{components=unet}", "lora{source=adapter}"])
def test_adapter_layers_and_fused_projections_exclude_each_other(first):
    both = {"qkv_fusion{components=unet}": "lora{source=adapter}"}
    second = both.get(first, "qkv_fusion{components=unet}")
    said = refused(f"{first}, {second}", device="cpu")
    assert "fused_qkv" in said[0] or "lora_layers" in said[0]


def test_a_fused_adapter_goes_before_fused_projections():
    said = refused("qkv_fusion{components=unet}, lora{source=adapter, fuse=true}", device="cpu")
    assert said[-1] == "The right order is: lora(the pipeline), qkv_fusion(unet)."


class Video(nn.Module):
    """Convolutions of rank 4 and of rank 5, as video models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.frame = nn.Conv2d(3, 4, 3)
        self.clip = nn.Conv3d(4, 4, (1, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.clip(self.frame(x).unsqueeze(2)).squeeze(2)


def test_channels_last_leaves_rank_5_alone():
    net = Video()
    recipe = ck.Recipe.from_steps("channels_last{components=model}")
    done = ck.apply(recipe, net, inputs={"x": torch.randn(2, 3, 8, 8)}, progress=False)
    assert net.frame.weight.is_contiguous(memory_format=torch.channels_last)
    assert net.clip.weight.is_contiguous()
    assert done.report.final[0].error < 1e-5
