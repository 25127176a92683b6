"""Lazy mode: what it compiles between two calls, what it cannot capture, what is not counted."""

from __future__ import annotations

import pytest
from gaudi.conftest import session

STEPS = """
    pipeline, row = apply(made("sd"), {"outside": "round"}, shapes=[{"batch": 4}])
    from habana_frameworks.torch import standin
    from compilekit_plugins.gaudi import captured
    from compilekit_plugins.gaudi.worker import driver

    before = dict(standin.counts)
    answer = {"said": [raised(draw, pipeline, num_inference_steps=n) for n in (1, 3, 20)]
                      + [raised(draw, pipeline, prompt=["a cat"] * 3)]}
    answer["more"] = {name: count - before[name] for name, count in standin.counts.items()}
    answer["report"] = pipeline.unet.forward.guard.report()

    place = captured._place
    captured._place = lambda owner: "hpu"
    answer["host argument"] = raised(plain)
    captured._place = place
    with captured.Probe("meta") as probe:
        torch.ones(2, device="meta") + torch.ones(2, device="meta")
        answer["device alone"] = probe.why
        torch.arange(3.0) + 1
    answer["host tensor"] = probe.why

    driver._metric = lambda name: {}
    model, row = plain()
    answer["not counted"] = [row["graph_compilations"], row["compiled_after_warm_up"]]
"""


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    return session(tmp_path_factory.mktemp("steps"), STEPS)


def test_what_lazy_mode_compiles_between_two_calls_is_no_new_size(steps):
    assert steps["said"] == ["nothing"] * 4
    more = steps["more"]
    assert more["captures"] == 0
    assert more["segments"] == more["compilations"] > 0
    assert steps["report"]["compiled_after_warm_up"] == 0
    assert steps["report"]["segments_after_warm_up"] > 0


def test_tensors_of_the_host_are_not_captured(steps):
    assert (
        "model cannot be captured: it is given a tensor [1, 8] on cpu: move it to hpu"
        in (steps["host argument"])
    )
    assert steps["device alone"] == ""
    assert steps["host tensor"].startswith("it works on a tensor that is not on meta (aten.")


def test_what_the_driver_does_not_count_is_unknown_and_not_zero(steps):
    assert steps["not counted"] == [None, None]
