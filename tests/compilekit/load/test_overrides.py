"""`run --set`: what a pipeline would ignore or cannot take is refused before it runs."""

from __future__ import annotations

import pytest

import compilekit as ck
from compilekit.load.overrides import check_overrides
from compilekit.testing import tiny_pipeline


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline("sd")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"height": 96}, "height: StableDiffusionPipeline ignores it without width: set both"),
        ({"width": 96, "height": None}, "width: StableDiffusionPipeline ignores it without height"),
        ({"height": "banana", "width": 96}, 'height: "banana" is not what'),
        ({"num_inference_steps": "banana"}, 'num_inference_steps: "banana" is not what'),
        ({"num_inference_steps": 1.5}, "StableDiffusionPipeline takes: int"),
        ({"guidance_scale": "much"}, "StableDiffusionPipeline takes: float"),
        ({"prompt": 5}, "prompt: 5 is not what"),
        ({"promt": "a cat"}, 'promt: StableDiffusionPipeline takes no such value. Did you mean "p'),
        ({"generator": 4}, "generator: StableDiffusionPipeline takes no such value."),
        ({"self": 4}, "self: StableDiffusionPipeline takes no such value."),
        ({"latents": 3}, "latents: 3 is not what"),
    ],
)
def test_it_is_refused(pipeline, changes, said):
    with pytest.raises(ck.UsageError) as caught:
        check_overrides(pipeline, {}, changes)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 96, "width": 96},
        {"prompt": ["a cat", "a dog"], "negative_prompt": None},
        {"guidance_scale": 3, "num_inference_steps": 4},
        {"timesteps": [3, 1], "eta": 0.5, "output_type": "np", "seed": 4},
    ],
)
def test_it_is_taken(pipeline, changes):
    check_overrides(pipeline, {}, changes)


def test_one_side_is_enough_where_the_sample_has_the_other(pipeline):
    check_overrides(pipeline, {"width": 64}, {"height": 96})
