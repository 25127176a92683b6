"""The step `gaudi` with stock diffusers, over the stand-in: the same pictures, and no surprises.

Each session is a process of its own, whose torch sends "hpu" to the CPU; one looks at many things.
"""

from __future__ import annotations

import functools

import pytest
from gaudi.conftest import session

CLOSE = 1e-4

EQUAL = """
    answer = {}
    for kind in KINDS:
        want = draw(made(kind))
        pipeline, row = apply(made(kind), {"mode": MODE})
        done = counts(pipeline, DENOISER.get(kind, "unet"))
        answer[kind] = [apart(want, draw(pipeline)), row, done]
    answer["guided"] = apart(*(draw(made("lcm"), guidance_scale=scale) for scale in (8.0, 2.0)))
"""

SESSIONS = {
    "graphs": ("graphs", ("sd", "lcm")),
    "graphs, others": ("graphs", ("sdxl", "flux", "lcm")),
    "compile": ("compile", ("sd",)),
    "compile, others": ("compile", ("sdxl", "flux", "lcm")),
}
KINDS = [
    pytest.param(name, kind, marks=[pytest.mark.full] if "others" in name else [])
    for name, (_, kinds) in SESSIONS.items()
    for kind in kinds
]


@pytest.fixture(scope="module")
def equal(tmp_path_factory):
    @functools.cache
    def answer(name):
        mode, kinds = SESSIONS[name]
        folder = tmp_path_factory.mktemp("equal")
        return session(folder, EQUAL, MODE=mode, KINDS=kinds, DENOISER={"flux": "transformer"})

    return answer


@pytest.fixture(scope="session")
def there(tmp_path_factory):
    return lambda code, environment=None: session(
        tmp_path_factory.mktemp("session"), code, environment
    )


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_pictures_are_those_of_stock_diffusers_on_the_cpu(equal, name, kind):
    difference, row, counted = equal(name)[kind]
    assert difference < CLOSE
    assert counted["captures"] == 1
    assert counted["replays"] > 2
    assert "eager" not in counted
    assert {"vae.decode", "text_encoder"} < set(row["graphs"])
    assert row["compiled_after_warm_up"] == 0
    assert row["graph_compilations"] >= len(row["graphs"])


def test_the_guidance_of_a_latent_consistency_model_changes_its_pictures(equal):
    # So what was compared above would have shown a guidance that is dropped.
    assert equal("graphs")["guided"] > 100 * CLOSE


BUCKETS = """
    two = [{"height": 96, "width": 32}, {"batch": 4}]
    stock = made("sd")
    prompts = ["a cat", "a dog", "a cow"]
    want = {
        "tall": draw(stock, height=96), "three": draw(stock, prompt=prompts),
        "ten": draw(stock, prompt=prompts[:2], num_images_per_prompt=5),
        "wide": draw(stock, width=96),
    }
    answer = {}

    pipeline, row = apply(made("sd"), shapes=two)
    answer["warmed"] = counts(pipeline)["captures"]
    answer["tall"] = apart(want["tall"], draw(pipeline, height=96))
    answer["tall captures"] = counts(pipeline)["captures"]
    answer["refused"] = raised(draw, pipeline, width=96)

    pipeline, row = apply(made("sd"), {"outside": "round"}, shapes=two[1:])
    before = counts(pipeline)
    answer["three"] = apart(want["three"], draw(pipeline, prompt=prompts))
    answer["ten"] = apart(want["ten"], draw(pipeline, prompt=prompts[:2], num_images_per_prompt=5))
    after = counts(pipeline)
    answer["rounded"] = [after[n] - before.get(n, 0) for n in ("captures", "replays", "padded")]
    answer["not rounded"] = raised(draw, pipeline, width=96)

    pipeline, row = apply(made("sd"), {"outside": "capture", "max_graphs": 2})
    answer["new"] = []
    for call in ({"width": 96}, {"width": 96}, {"height": 96}, {"height": 96}, {}):
        answer["new"].append([round(apart(want.get("wide" if "width" in call else "tall"),
                                          draw(pipeline, **call)), 6) if call else 0.0,
                              counts(pipeline)["captures"], counts(pipeline).get("dropped", 0)])
        if not call:
            draw(pipeline)
    answer["too many"] = raised(apply, made("sd"), {"max_graphs": 2}, shapes=two)

    from habana_frameworks.torch import standin
    from compilekit_plugins.gaudi.worker import driver

    kind = driver.hpu().HPUGraph
    plain, more = kind.replay, []

    def compiles(self):
        standin.counts["compilations"] += more.pop() if more else 0
        plain(self)

    kind.replay = compiles
    pipeline, row = apply(made("sd"))
    draw(pipeline)
    standin.counts["compilations"] += 5
    answer["others"] = raised(draw, pipeline)
    more.append(1)
    answer["compiled again"] = raised(draw, pipeline)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipeline, row = apply(made("sd"), {"recompiles": "warn"})
        more.append(2)
        draw(pipeline)
    answer["warned"] = [str(each.message) for each in caught if "warm-up" in str(each.message)]
"""


@pytest.fixture(scope="module")
def buckets(tmp_path_factory):
    return session(tmp_path_factory.mktemp("buckets"), BUCKETS)


def test_sizes_of_the_recipe_are_warmed_up_and_others_refused(buckets):
    assert buckets["warmed"] == 3
    assert buckets["tall"] < CLOSE
    assert buckets["tall captures"] == 3
    assert "was not warmed up; covered are" in buckets["refused"]
    assert buckets["refused"].startswith(
        "UncoveredCallError: steps[0].gaudi: unet: called with float32[2, 4, 16, 48]"
    )


def test_a_batch_is_rounded_up_or_split_and_its_padding_cut(buckets):
    assert buckets["three"] < CLOSE
    assert buckets["ten"] < CLOSE
    # 3 pictures are 6 rows in a graph of 8; 10 are 20 rows, so three replays; of 2 steps each.
    captures, replays, padded = buckets["rounded"]
    assert (captures, replays, padded) == (0, 2 * (1 + 3), 2 * (2 + 4))
    assert "no batch of that size was warmed up" in buckets["not rounded"]


def test_a_new_size_is_captured_once_and_the_oldest_graph_makes_room(buckets):
    assert [row[0] for row in buckets["new"]] == [0.0] * 5
    assert [row[1:] for row in buckets["new"]] == [[2, 0], [2, 0], [3, 1], [3, 1], [3, 1]]
    assert "the warm-up needs more than max_graphs=2 graphs" in buckets["too many"]


def test_what_is_compiled_after_the_warm_up_is_an_error_or_a_warning(buckets):
    assert buckets["others"] == "nothing"
    assert buckets["compiled again"].startswith("StepError: steps[0].gaudi: 1 graph compiled after")
    assert len(buckets["warned"]) == 1
    assert "2 graphs compiled after the warm-up, in a call of" in buckets["warned"][0]


TRAPS = """
    import os
    from torch import nn
    from compilekit_plugins.gaudi import graphs

    answer = {}
    pipeline, row = apply(made("sd"))
    other = made("sd")
    with torch.no_grad():
        for tensor in other.unet.parameters():
            tensor.mul_(1.5)
    want = {"old": draw(made("sd")), "new": draw(other)}
    answer["differ"] = apart(want["old"], want["new"])
    pipeline.unet.load_state_dict(other.unet.state_dict(), assign=True)
    answer["replaced"] = [apart(want["new"], draw(pipeline)), counts(pipeline)]
    with torch.no_grad():
        for tensor in pipeline.unet.parameters():
            tensor.div_(1.5)
    answer["edited"] = [apart(want["old"], draw(pipeline)), counts(pipeline)["captures"]]

    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    words = {"encoder_hidden_states": torch.zeros(2, 77, 64), "timestep_cond": None,
             "cross_attention_kwargs": None, "added_cond_kwargs": None, "return_dict": False}
    with torch.no_grad():
        first = pipeline.unet(x, torch.tensor(5), **words)[0]
        kept = first.clone()
        pipeline.unet(-x, torch.tensor(9), **words)
        answer["other"] = [
            raised(pipeline.unet, x, torch.tensor(5), **{**words, "return_dict": True}),
            raised(pipeline.unet, x, torch.tensor(5), encoder_hidden_states=torch.zeros(2, 77, 64)),
        ]
    answer["kept"] = bool(torch.equal(first, kept))

    class Once(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.calls, self.bad = nn.Linear(8, 8), 0, 0
        def forward(self, x):
            self.calls += 1
            if self.calls == self.bad:
                raise ValueError("no")
            return self.linear(x)

    once = Once()
    count = Once()
    plain(count)
    bad = Once()
    # The calls before the warm-up, the look at what it does, and then the capture.
    for number in range(1, count.calls + 1):
        bad = Once()
        bad.bad = number
        found = raised(plain, bad)
        if "cannot be captured" in found:
            break
    answer["failed"] = [found, raised(plain, Once())]

    end = graphs.driver.hpu().HPUGraph.capture_end
    def refuses(self):
        end(self)
        raise RuntimeError("not now")
    graphs.driver.hpu().HPUGraph.capture_end = refuses
    again = Once()
    again.bad = bad.bad
    raised(plain, again)
    graphs.driver.hpu().HPUGraph.capture_end = end
    answer["open"] = raised(plain, Once())

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)
        def forward(self, x):
            return self.linear(x) + torch.rand_like(x)
    answer["noisy"] = raised(plain, Noisy())
    answer["migration"] = os.environ.get("PT_HPU_GPU_MIGRATION", "not set")
"""


@pytest.fixture(scope="module")
def traps(tmp_path_factory):
    return session(tmp_path_factory.mktemp("traps"), TRAPS)


def test_replaced_weights_are_captured_anew_and_edited_ones_are_seen(traps):
    assert traps["differ"] > 100 * CLOSE
    difference, counted = traps["replaced"]
    assert difference < CLOSE
    assert (counted["captures"], counted["renewed"]) == (2, 1)
    assert traps["edited"][0] < CLOSE
    assert traps["edited"][1] == 2


def test_an_output_that_is_kept_is_not_written_to_by_the_next_replay(traps):
    assert traps["kept"]


def test_a_call_that_differs_in_no_tensor_says_in_what(traps):
    constants, arguments = traps["other"]
    assert (
        " with the constants None, None, None, True, and not None, None, None, False" in constants
    )
    assert "float32[2, 77, 64] with other arguments, which was not warmed up" in arguments


def test_an_error_inside_of_a_capture_is_told_and_the_capture_closed(traps):
    failed, after = traps["failed"]
    assert "gaudi: model cannot be captured: ValueError: no" in failed
    assert after == "nothing"


def test_a_capture_that_cannot_be_closed_is_told_to_whoever_captures_next(traps):
    assert (
        "the capture of steps[0].gaudi: model failed (ValueError: no), and could not be ended"
        in (traps["open"])
    )
    assert traps["open"].endswith("start a new process")


def test_what_draws_random_numbers_is_not_captured(traps):
    assert (
        "model cannot be captured: it draws random numbers (aten.rand_like.default)"
        in (traps["noisy"])
    )


def test_moving_the_pipeline_switches_no_migration_on(traps):
    assert traps["migration"] == "not set"


def test_op_lists_are_written_and_named_before_the_driver_is_imported(there):
    answer = there("""
        line, x = Line().eval(), torch.ones(1, 8)
        with torch.no_grad():
            want = line(x=x)
            model, row = plain(line, {"gaudi_config": "Habana/stable-diffusion-2"})
            difference = apart(want, line(x=x))
        from habana_frameworks.torch import standin
        found = {name: Path(path).read_text().split() for name, path in standin.OP_LISTS.items()}
        answer = [found, row["environment"], difference]
    """)
    lists, environment, difference = answer
    assert [len(each) for each in lists.values()] == [27, 44]
    assert lists["PT_HPU_AUTOCAST_LOWER_PRECISION_OPS_LIST"][-1] == "group_norm"
    assert set(lists) < set(environment)
    assert difference < CLOSE  # autocast for "hpu" does nothing on a CPU


def test_what_comes_too_late_is_refused_with_the_reason(there):
    answer = there("""
        import os
        import habana_frameworks.torch
        before = dict(os.environ)
        answer = [raised(plain), before == dict(os.environ)]
    """)
    assert answer[0].startswith(
        "MachineError: steps[0].gaudi: PT_HPU_LAZY_MODE must be 1, and is not set"
    )
    assert "It is too late to set it: habana_frameworks.torch is imported already" in answer[0]
    assert answer[1]


def test_a_driver_that_was_imported_with_the_right_settings_is_taken(there):
    answer = there(
        """
        import habana_frameworks.torch
        waited = []
        torch.hpu.synchronize = lambda: waited.append(True)
        model, row = plain()
        captures = model.forward.counts.to_dict()["captures"]
        answer = [captures, row["environment"], bool(waited)]
        """,
        {"PT_HPU_LAZY_MODE": "1", "PT_HPU_ENABLE_CACHE_METRICS": "1"},
    )
    assert answer == [1, {}, True]


def test_migration_that_is_on_is_refused(there):
    answer = there("answer = raised(plain)", {"PT_HPU_GPU_MIGRATION": "1"})
    assert "PT_HPU_GPU_MIGRATION is set, which turns calls for CUDA into others" in answer


@pytest.mark.full
def test_g3_bench_warms_up_each_batch_and_counts_pictures(there):
    answer = there("""
        pipeline = made("sd")
        found = ck.bench(recipe(), pipeline, batches=(1, 4), runs=1, progress=False)
        answer = [[[row.batch, row.images] for row in found.rows], counts(pipeline)["captures"]]
    """)
    assert answer == [[[1, 1], [4, 4]], 2]
