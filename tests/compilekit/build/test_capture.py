"""Which runs of the sample a build captures calls from."""

from __future__ import annotations

import pytest

from compilekit.build.capture import SOME_GUIDANCE, settings
from compilekit.subject.model import Model
from compilekit.testing import tiny_pipeline


@pytest.mark.parametrize(
    ("kind", "sample", "guidances"),
    [
        ("sd", {}, [None, 1.0]),
        ("sd", {"guidance_scale": 1.0}, [1.0, SOME_GUIDANCE]),
        ("StableVideoDiffusionPipeline", {}, [None]),
    ],
)
def test_a_pipeline_runs_with_guidance_and_without_where_its_call_can_say_so(
    kind, sample, guidances
):
    sample = {"num_inference_steps": 4, **sample}
    complete, *short = settings(Model(tiny_pipeline(kind)), sample, [])
    assert complete == sample
    assert {run["num_inference_steps"] for run in short} == {1}
    assert [run.get("guidance_scale") for run in short] == guidances
