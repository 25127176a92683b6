"""What only a GPU can show. `make test-gpu` runs these."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import compilekit as ck
from compilekit.testing import tiny_pipeline

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def applied(steps: str, sample: dict[str, object], pipeline: object = None) -> ck.Applied:
    recipe = ck.Recipe.from_steps(steps, device="cuda", sample=sample)
    return ck.apply(recipe, pipeline or tiny_pipeline("sd"), progress=False)


def test_a_pipeline_is_moved_to_the_target_and_stays_in_budget(sample):
    done = applied("channels_last{components=[unet, vae]}", sample)
    assert done.pipeline.unet.device.type == "cuda"
    assert done.report.final[0].error < 1e-4


def test_inputs_of_a_module_are_moved_with_it():
    net = nn.Linear(8, 8).cuda()
    recipe = ck.Recipe.from_steps("precision{dtype=bfloat16}", device="cuda")
    assert ck.apply(recipe, net, inputs={"input": torch.randn(4, 8)}, progress=False)


def test_tf32_stays_and_is_reported(sample):
    before = torch.get_float32_matmul_precision()
    try:
        done = applied("precision{tf32=true}", sample)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert done.report.steps[0].state["torch.float32_matmul_precision"].kept


def test_int8_compiled_with_cuda_graphs_stays_in_budget(sample):
    done = applied(
        "precision{dtype=bfloat16}, torchao_int8{components=unet}, "
        "torch_compile{components=unet, mode=reduce-overhead}",
        sample,
    )
    assert {m.entry: m.error for m in done.report.final}["unet"] < 0.1


def test_int8_under_model_offload_claims_only_what_it_does(sample):
    pipeline = tiny_pipeline("sd")
    pipeline.enable_model_cpu_offload()
    steps = "torchao_int8{components=unet}, torch_compile{components=unet}"
    assert applied(steps, sample, pipeline).report.final
