"""The sample in other sizes."""

from __future__ import annotations

from support import SAMPLE

from compilekit.subject.sizes import sized


def test_another_size_keeps_the_rest_of_the_sample():
    sample = {**SAMPLE, "num_inference_steps": 5, "guidance_scale": 7.0}
    assert sized(sample, {"height": 96}) == {**sample, "height": 96}
    assert sized(sample, {"batch": 2}) == {**sample, "prompt": ["a cat", "a cat"]}
    assert sized(sample, {"height": 32}) == sample
    assert sized(sample, {"num_inference_steps": 3}) == {**sample, "num_inference_steps": 3}
