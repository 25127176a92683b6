"""`engine: optimum`: optimum-habana's real code, over the stand-in for the driver package."""

from __future__ import annotations

import pytest
from gaudi.conftest import session

CLOSE = 1e-4

CALLS = """
    from diffusers import DDIMScheduler
    from habana_frameworks.torch import standin

    def ddim(kind="sd"):
        pipeline = made(kind)
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
        return pipeline

    def counted():
        return {name: standin.counts[name] for name in ("captures", "replays")}

    def between(before):
        now = counted()
        return {name: now[name] - before[name] for name in now}
"""

G1 = (
    """
    answer = {}
    one = {"engine": "optimum", "gaudi_config": "Habana/stable-diffusion"}
    first, row = apply(made("sd"), {**one, "scheduler": "GaudiDDIMScheduler"},
                       before=[{"scheduler": {"name": "DDIMScheduler"}}])
"""
    + CALLS
    + """
    answer["G1"] = [apart(draw(ddim()), draw(first)), row]
    for kind in ("sdxl", "flux"):
        pipeline, row = apply(made(kind), {"engine": "optimum"})
        before = counted()
        answer[kind] = [apart(draw(made(kind)), draw(pipeline)), between(before), row["class"]]

    pipeline, row = apply(ddim(), {"engine": "optimum"})
    other = ddim()
    with torch.no_grad():
        for tensor in other.unet.parameters():
            tensor.mul_(1.5)
    pipeline.unet.load_state_dict(other.unet.state_dict(), assign=True)
    before = counted()
    answer["replaced"] = [apart(draw(ddim()), draw(other)), apart(draw(other), draw(pipeline)),
                          between(before)]
    before = counted()
    answer["more steps"] = [raised(draw, pipeline, num_inference_steps=20), between(before)]
    flux = apply(made("flux"), {"engine": "optimum"})[0]
    other = made("flux")
    with torch.no_grad():
        for tensor in other.transformer.parameters():
            tensor.mul_(1.2)
    flux.transformer.load_state_dict(other.transformer.state_dict(), assign=True)
    answer["replaced in flux"] = [apart(draw(made("flux")), draw(other)),
                                  apart(draw(other), draw(flux))]

    x, row = apply(ddim(), {"engine": "optimum", "batch_size": 4})
    answer["strict"] = raised(draw, x, height=96)
    x, row = apply(ddim(), {"engine": "optimum", "batch_size": 4, "recompiles": "allow"})
    three = {"prompt": ["a cat", "a dog", "a cow"]}
    before = counted()
    answer["padded"] = [apart(draw(ddim(), **three), draw(x, **three)), between(before)]
    before = counted()
    draw(x, **three)
    answer["again"] = between(before)
    before = counted()
    draw(x, height=96)
    answer["another size"] = between(before)

    from diffusers import EulerDiscreteScheduler
    other = made("sd")
    other.scheduler = EulerDiscreteScheduler.from_config(other.scheduler.config)
    answer["scheduler"] = raised(apply, other, {**one, "scheduler": "GaudiDDIMScheduler"})
    answer["no such"] = raised(apply, made("sd"), {**one, "scheduler": "GaudiPNDMScheduler"})
    found = ck.bench(recipe({"engine": "optimum", "batch_size": 2}), ddim(), batches=(1, 3),
                     runs=1, progress=False)
    answer["bench"] = [[row.batch, row.images] for row in found.rows]
    answer["distilled"] = raised(apply, made("lcm"), {"engine": "optimum"})
    answer["dropped"] = raised(draw, first, cross_attention_kwargs={"scale": 0.5})
    answer["save"] = raised(first.save_pretrained, "there")
"""
)

G2 = """
    from diffusers import DDIMScheduler

    def ddim():
        pipeline = made("sd")
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
        return pipeline

    two = {"prompt": ["a cat", "a dog"], "num_images_per_prompt": 10, "num_inference_steps": 3}
    options = {"engine": "optimum", "gaudi_config": "Habana/stable-diffusion-2", "batch_size": 4}
    want = draw(ddim(), **two)
    # The warm-up is a picture of its own, so that the call below is the first of its size.
    pipeline, row = apply(ddim(), {**options, "recompiles": "allow"}, sample={**CALL, "seed": 7})
    from habana_frameworks.torch import standin
    pipeline.cache.clear()
    before = dict(standin.counts)
    got = draw(pipeline, **two)
    first = {name: standin.counts[name] - before[name] for name in ("captures", "replays")}
    before = dict(standin.counts)
    again = draw(pipeline, **two)
    second = {name: standin.counts[name] - before[name] for name in ("captures", "replays")}
    answer = [len(got), apart(want, got), first, apart(got, again), second,
              row["class"], row["scheduler"], sorted(row["environment"])]
"""


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return session(tmp_path_factory.mktemp("g1"), G1)


def test_g1_runs_as_documented(first):
    difference, row = first["G1"]
    assert difference < CLOSE
    assert (row["class"], row["scheduler"]) == (
        "GaudiStableDiffusionPipeline",
        "GaudiDDIMScheduler",
    )
    assert row["graphs"] == {"denoiser": {"captures": 1}}
    assert row["compiled_after_warm_up"] == 0
    assert "UNet2DConditionModel.forward" in row["replaced_in_diffusers"]


def test_g2_draws_20_pictures_in_batches_of_4_by_one_capture(tmp_path_factory):
    answer = session(tmp_path_factory.mktemp("g2"), G2)
    count, difference, drawn, apart, again, kind, scheduler, environment = answer
    assert (count, kind, scheduler) == (20, "GaudiStableDiffusionPipeline", "GaudiDDIMScheduler")
    assert difference < CLOSE
    # Five batches of three steps each.
    assert drawn == {"captures": 1, "replays": 14}
    assert (apart, again) == (0.0, {"captures": 0, "replays": 15})
    assert "PT_HPU_AUTOCAST_LOWER_PRECISION_OPS_LIST" in environment


@pytest.mark.parametrize(
    ("kind", "owner"),
    [("sdxl", "GaudiStableDiffusionXLPipeline"), ("flux", "GaudiFluxPipeline")],
)
def test_other_documented_pipelines_draw_the_same(first, kind, owner):
    difference, counted, found = first[kind]
    assert found == owner
    assert difference < CLOSE
    assert counted == {"captures": 0, "replays": 2}


def test_the_last_batch_is_padded_and_equal(first):
    difference, counted = first["padded"]
    assert difference < CLOSE
    assert counted["captures"] == 0
    assert first["again"] == {"captures": 0, "replays": 2}
    assert first["another size"] == {"captures": 1, "replays": 1}
    assert "1 graph compiled after the warm-up, in a call of the pipeline" in first["strict"]


def test_replaced_weights_are_captured_anew(first):
    differs, difference, counted = first["replaced"]
    assert differs > 100 * CLOSE
    assert difference < CLOSE
    assert counted["captures"] == 1
    differs, difference = first["replaced in flux"]
    assert differs > 100 * CLOSE
    assert difference < CLOSE


def test_a_call_of_more_steps_than_the_warm_up_is_no_new_size(first):
    assert first["more steps"] == ["nothing", {"captures": 0, "replays": 20}]


def test_g3_throughput_counts_pictures_and_not_what_pads_a_batch(first):
    assert first["bench"] == [[1, 1], [3, 3]]


def test_what_optimum_habana_has_not_is_told(first):
    assert (
        "GaudiDDIMScheduler draws other pictures than the pipeline's EulerDiscreteScheduler"
        in (first["scheduler"])
    )
    assert "put the step `scheduler: {name: DDIMScheduler}` before this one" in first["scheduler"]
    assert "optimum-habana has no GaudiPNDMScheduler; it has GaudiDDIMScheduler" in first["no such"]
    assert "SaveError" in first["save"]


def test_what_its_graphs_would_drop_is_refused(first):
    assert "the graphs of GaudiStableDiffusionPipeline drop `timestep_cond`" in first["distilled"]
    assert first["distilled"].endswith("use `engine: native`")
    assert first["dropped"].startswith("ValueError: cross_attention_kwargs: the graphs of")
