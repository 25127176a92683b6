"""The sample in other sizes."""

from __future__ import annotations

import pytest
import torch
from support import SAMPLE

from compilekit.model import Model
from compilekit.subject.sizes import in_size, one_step, sized
from compilekit.testing import tiny_pipeline


def test_another_size_keeps_the_rest_of_the_sample():
    sample = {**SAMPLE, "num_inference_steps": 5, "guidance_scale": 7.0}
    model = Model(tiny_pipeline("sd"))
    for changes, expected in (
        ({"height": 96}, {**sample, "height": 96}),
        ({"batch": 2}, {**sample, "prompt": ["a cat", "a cat"]}),
        ({"height": 32}, sample),
        ({"num_inference_steps": 3}, {**sample, "num_inference_steps": 3}),
    ):
        assert sized(model, sample, changes) == expected


def test_a_plain_module_has_its_inputs_in_the_batch_meanwhile():
    inputs = {"x": torch.arange(2.0).reshape(2, 1), "scale": 3.0}
    model = Model(torch.nn.Identity(), inputs)
    with in_size(model, sized(model, {}, {"batch": 3})) as arguments:
        assert arguments == {}
        assert model.inputs["x"].tolist() == [[0.0], [1.0], [0.0]]
        assert model.inputs["scale"] == 3.0
    assert model.inputs["x"] is inputs["x"]


def test_a_warm_up_takes_one_step_at_the_strength_that_the_pipeline_takes_by_default():
    strong, weak = Model(tiny_pipeline("sd")), Model(tiny_pipeline("sd-img2img"))
    assert one_step(strong, {"num_inference_steps": 9})["num_inference_steps"] == 1
    assert one_step(weak, {"num_inference_steps": 9})["num_inference_steps"] == 2
    assert one_step(weak, {"strength": 0.5})["num_inference_steps"] == 2


@pytest.mark.parametrize(
    "kind", ["KandinskyV22PriorPipeline", "KarrasVePipeline", "MochiPipeline", "SanaSprintPipeline"]
)
def test_a_warm_up_takes_two_steps_where_the_pipeline_cannot_take_one(kind):
    assert (
        one_step(Model(tiny_pipeline(kind)), {"num_inference_steps": 9})["num_inference_steps"] == 2
    )
