"""A loaded bundle: an ordinary pipeline, strict about calls and about changes to it."""

from __future__ import annotations

import copy
import gc
import io
import operator
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import SAMPLE, Twice, draw
from torch import nn

import compilekit as ck
from compilekit.testing import tiny_pipeline


@pytest.fixture
def pipeline(pristine, load):
    return load(pristine)


def test_it_draws_what_the_model_drew(pipeline):
    assert abs(draw(pipeline) - draw(tiny_pipeline("sd"))).max() < 1e-5


def test_it_is_an_ordinary_pipeline(pipeline):
    original = tiny_pipeline("sd")
    assert type(pipeline) is type(original)
    assert pipeline.unet.to_json_string() == original.unet.to_json_string()
    assert (pipeline.unet.dtype, pipeline.device.type) == (torch.float32, "cpu")
    state, wanted = pipeline.unet.state_dict(), original.unet.state_dict()
    assert list(state) == list(wanted)
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)


def test_it_counts_its_calls(pipeline):
    draw(pipeline)
    counts = ck.bundle_of(pipeline).counts()
    assert list(counts) == ["unet.mid_block"]
    assert (counts["unet.mid_block"].compiled, counts["unet.mid_block"].eager) == (2, 0)


def test_without_guidance_the_batch_is_smaller_and_covered(pipeline):
    wanted = draw(tiny_pipeline("sd"), guidance_scale=1.0)
    assert abs(draw(pipeline, guidance_scale=1.0) - wanted).max() < 1e-5
    assert ck.bundle_of(pipeline).counts()["unet.mid_block"].compiled == 2


def test_a_size_that_is_not_covered_is_an_error_that_names_those_that_are(pipeline):
    with pytest.raises(ck.UncoveredCallError) as caught:
        draw(pipeline, height=96)
    assert str(caught.value) == (
        "unet.mid_block: hidden_states is float32[2, 64, 24, 8], and the bundle has no part for "
        "that. It covers\n"
        "  hidden_states: float32[1..2, 64, 8, 8], temb: float32[1..2, 128], "
        "encoder_hidden_states: float32[1..2, 77, 64]\n"
        "Name the sizes under `shapes:` in the recipe and build again, or load with "
        'on_uncovered="eager".'
    )


def test_a_call_that_is_not_covered_runs_eagerly_where_that_is_asked_for(pristine, load):
    pipeline = load(pristine, on_uncovered="eager")
    wanted = draw(tiny_pipeline("sd"), height=96)
    assert abs(draw(pipeline, height=96) - wanted).max() < 1e-5
    counts = ck.bundle_of(pipeline).counts()["unet.mid_block"]
    assert (counts.compiled, counts.eager) == (0, 2)
    assert counts.uncovered == {"hidden_states is float32[2, 64, 24, 8]": 2}


def call(pipeline: Any, **changes: Any) -> Any:
    arguments = {
        "hidden_states": torch.ones(2, 64, 8, 8),
        "temb": torch.ones(2, 128),
        "encoder_hidden_states": torch.ones(2, 77, 64),
    }
    with torch.no_grad():
        return pipeline.unet.mid_block(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"temb": torch.ones(2, 128, dtype=torch.float64)}, "temb is float64[2, 128]"),
        ({"attention_mask": torch.ones(2, 77)}, "attention_mask is float32[2, 77]"),
        ({"cross_attention_kwargs": {"scale": 0.5}}, "cross_attention_kwargs.scale was not given"),
        ({"temb": None}, "temb=None is no tensor"),
        ({"temb": torch.ones(1, 128)}, "temb is float32[1, 128], which does not go with hidden"),
        ({"hidden_states": torch.ones(3, 64, 8, 8)}, "hidden_states is float32[3, 64, 8, 8]"),
    ],
    ids=["dtype", "mask", "keyword", "none", "batches differ", "batch"],
)
def test_other_calls_are_refused_with_the_argument_at_fault(changes, reason, pipeline):
    with pytest.raises(ck.UncoveredCallError, match=r"^unet.mid_block: ") as caught:
        call(pipeline, **changes)
    assert reason in str(caught.value)


def test_a_keyword_that_the_function_lacks_is_a_type_error(pipeline):
    with pytest.raises(TypeError, match=r"unet.mid_block takes no argument tmeb"):
        call(pipeline, tmeb=3)


def test_inputs_of_another_layout_are_laid_out(pipeline):
    torch.manual_seed(0)
    hidden = torch.randn(2, 64, 8, 8)
    strided = hidden.contiguous(memory_format=torch.channels_last)
    assert torch.equal(call(pipeline, hidden_states=hidden), call(pipeline, hidden_states=strided))
    expanded = torch.ones(1, 1).expand(2, 128)
    assert torch.equal(call(pipeline, temb=expanded), call(pipeline))


def test_a_call_that_wants_gradients_is_refused(pipeline):
    hidden = torch.ones(2, 64, 8, 8, requires_grad=True)
    with pytest.raises(ck.UncoveredCallError, match="compiled ahead of time it gives no gradients"):
        pipeline.unet.mid_block(hidden, torch.ones(2, 128), torch.ones(2, 77, 64))


WEIGHT = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"


def test_an_edit_in_place_is_seen_as_in_eager(pipeline):
    eager = tiny_pipeline("sd")
    before = draw(eager)
    for model in (pipeline, eager):
        with torch.no_grad():
            model.unet.get_parameter("mid_block.resnets.0.conv1.weight").mul_(3)
    assert abs(draw(eager) - before).max() > 1e-3
    assert abs(draw(pipeline) - draw(eager)).max() < 1e-5


def replace_parameter(pipeline: Any) -> None:
    owner = pipeline.unet.get_submodule(WEIGHT.rpartition(".")[0])
    owner.weight = nn.Parameter(torch.zeros_like(owner.weight))


def replace_data(pipeline: Any) -> None:
    weight = pipeline.unet.get_parameter(WEIGHT)
    weight.data = torch.zeros_like(weight)


def replace_layer(pipeline: Any) -> None:
    owner = pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn1
    owner.to_q = nn.Linear(64, 64)


def replace_processor(pipeline: Any) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    owner = pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn1
    owner.set_processor(AttnProcessor())


def cast_a_block(pipeline: Any) -> None:
    pipeline.unet.mid_block.to(torch.bfloat16)


def remove_parameter(pipeline: Any) -> None:
    owner = pipeline.unet.get_submodule("mid_block.resnets.0.conv1")
    owner.bias = None


def add_a_hook(pipeline: Any) -> None:
    pipeline.unet.mid_block.resnets[0].register_forward_hook(lambda module, args, output: output)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (add_a_hook, "unet.mid_block.forward has another hook inside"),
        (lambda p: setattr(p.unet.mid_block.resnets[0], "s1", 0.9), "resnets.0.s1 was replaced"),
        (replace_parameter, f"unet.{WEIGHT} was replaced"),
        (replace_data, f"unet.{WEIGHT} was replaced"),
        (replace_layer, "attn1.to_q was replaced"),
        (replace_processor, "attn1.processor was replaced"),
        (cast_a_block, "was replaced"),
        (remove_parameter, "unet.mid_block.resnets.0.conv1.bias was removed"),
    ],
)
def test_a_change_that_compiled_code_does_not_see_raises_at_the_next_call(change, what, pipeline):
    change(pipeline)
    with pytest.raises(ck.SealedError) as caught:
        draw(pipeline)
    assert what in str(caught.value)
    assert "and compiled code does not see that; edit weights in place" in str(caught.value)


def test_training_mode_is_refused_until_eval_is_called(pipeline):
    before = draw(pipeline)
    pipeline.unet.train()
    with pytest.raises(ck.SealedError) as caught:
        draw(pipeline)
    assert str(caught.value) == (
        "unet.mid_block is in training mode, and compiled code has no such mode; "
        "call `eval()` on it"
    )
    pipeline.unet.eval()
    assert np.array_equal(draw(pipeline), before)


def test_modules_that_a_bundle_makes_anew_are_not_in_training_mode(load, exporter, tmp_path):
    x = torch.linspace(-1, 1, 16).reshape(2, 8)
    recipe = ck.Recipe.from_steps("eager_export{components=model}")
    arguments = {"inputs": {"x": x}, "host": exporter, "cache": False, "progress": False}
    ck.build(recipe, Twice().eval(), tmp_path / "twice", **arguments)
    net = load(tmp_path / "twice")
    with torch.no_grad():
        before = net(x)["sum"]
        assert torch.equal(net.eval()(x)["sum"], before)
        net.train()
        with pytest.raises(ck.SealedError, match="model is in training mode"):
            net(x)


def test_weights_are_read_into_memory_where_that_is_asked_for(bundle, load):
    maps = Path("/proc/self/maps")
    mapped = load(bundle)
    assert f"{bundle}/constants" in maps.read_text()
    before = draw(mapped)
    del mapped
    gc.collect()
    pipeline = load(bundle, copy=True)
    assert f"{bundle}/constants" not in maps.read_text()
    for path in (bundle / "constants").iterdir():
        path.write_bytes(b"")
    assert np.array_equal(draw(pipeline), before)


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, pickle.dumps, lambda owner: torch.save(owner, io.BytesIO())],
    ids=["copy", "deepcopy", "pickle", "torch.save"],
)
@pytest.mark.parametrize("path", ["", "unet", "unet.mid_block"])
def test_what_is_compiled_is_neither_copied_nor_pickled(copied, path, pipeline):
    owner = operator.attrgetter(path)(pipeline) if path else pipeline
    with pytest.raises(ck.SaveError, match=r"loaded from the bundle .* load the bundle once more"):
        copied(owner)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.to(torch.bfloat16),
        lambda p: p.unet.to(torch.float16),
        lambda p: p.unet.half(),
        lambda p: p.unet.double(),
        lambda p: p.to("meta"),
    ],
    ids=["pipeline", "component", "half", "double", "device"],
)
def test_another_dtype_or_device_raises_at_once(change, pipeline):
    with pytest.raises(
        ck.SealedError, match=r"unet came compiled out of a bundle as torch.float32"
    ):
        change(pipeline)
    draw(pipeline)


def test_a_move_to_where_it_is_already_is_fine(pipeline):
    assert pipeline.to("cpu", torch.float32) is pipeline
    assert pipeline.unet.eval().requires_grad_(requires_grad=False) is pipeline.unet


@pytest.mark.parametrize(
    ("change", "owner", "method"),
    [
        (lambda p: p.load_lora_weights("nosuch"), "this pipeline", "load_lora_weights"),
        (lambda p: p.unet.load_lora_adapter({}), "unet", "load_lora_adapter"),
        (lambda p: p.unet.set_default_attn_processor(), "unet", "set_default_attn_processor"),
        (lambda p: p.unet.set_attention_backend("native"), "unet", "set_attention_backend"),
        (lambda p: p.unet.fuse_qkv_projections(), "unet", "fuse_qkv_projections"),
        (lambda p: p.load_ip_adapter("nosuch"), "this pipeline", "load_ip_adapter"),
        (lambda p: p.enable_freeu(0.9, 0.2, 1.2, 1.4), "unet", "enable_freeu"),
    ],
)
def test_what_would_not_reach_compiled_code_is_closed(change, owner, method, pipeline):
    with pytest.raises(ck.SealedError) as caught:
        change(pipeline)
    assert str(caught.value) == (
        f"{owner} came compiled out of a bundle, and {method} would not reach compiled code; "
        "apply it before the bundle is built, and build again"
    )


def test_components_that_are_not_compiled_stay_open(pipeline):
    pipeline.vae.to(torch.float64)
    assert pipeline.vae.dtype == torch.float64


def test_saving_says_to_copy_the_bundle(pipeline, tmp_path):
    for owner in (pipeline, pipeline.unet, pipeline.text_encoder):
        with pytest.raises(ck.SaveError, match="copy that folder instead of saving"):
            owner.save_pretrained(tmp_path / "saved")


@pytest.mark.parametrize("name", ["on_mismatch", "on_uncovered", "check"])
def test_a_choice_that_is_none_is_refused(name, pristine, load):
    with pytest.raises(ck.UsageError, match=f'{name}="Eager": say "'):
        load(pristine, **{name: "Eager"})


def test_a_tensor_that_is_no_plain_one_is_refused(pipeline):
    sparse = torch.ones(2, 128).to_sparse()
    with pytest.raises(ck.UncoveredCallError, match="temb is no plain tensor"):
        call(pipeline, temb=sparse)


def test_views_that_only_pytorch_understands_are_resolved(pipeline):
    assert torch.equal(
        call(pipeline, temb=torch._neg_view(torch.ones(2, 128))),
        call(pipeline, temb=-torch.ones(2, 128)),
    )


def test_other_schedulers_prompts_and_callbacks_go_on_working(pipeline, tmp_path):
    from diffusers import EulerDiscreteScheduler

    # Once saved, a scheduler's config no longer says which of its values are defaults.
    tiny_pipeline("sd").save_pretrained(tmp_path)
    eager = type(pipeline).from_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this scheduler's own, about NumPy
        for model in (pipeline, eager):
            model.scheduler = EulerDiscreteScheduler.from_config(model.scheduler.config)
        steps: list[int] = []

        def note(_: Any, step: int, *rest: Any) -> Any:
            steps.append(step)
            return rest[-1]

        drawn = draw(pipeline, prompt="a dog", callback_on_step_end=note)
        assert abs(drawn - draw(eager, prompt="a dog")).max() < 1e-5
    assert steps == [0, 1]


def test_what_did_not_come_out_of_a_bundle_says_so():
    with pytest.raises(ck.UsageError, match="did not come out of a bundle"):
        ck.bundle_of(tiny_pipeline("sd"))


def test_loading_leaves_random_numbers_and_libraries_as_they_were(pristine, load):
    from diffusers.utils import logging

    shown = logging.is_progress_bar_enabled()
    before = torch.random.get_rng_state()
    load(pristine)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert logging.is_progress_bar_enabled() == shown


def test_two_loaded_bundles_do_not_share_what_is_edited(pristine, load):
    one, other = load(pristine), load(pristine)
    before = draw(other)
    with torch.no_grad():
        one.unet.get_parameter(WEIGHT).zero_()
    assert np.array_equal(draw(other), before)


def test_the_sample_of_the_bundle_is_the_recipes(pristine):
    assert ck.Manifest.read(pristine).sample == SAMPLE


def test_threads_may_load_at_once(pristine, load):
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: load(pristine), range(4)))
    assert len({id(pipeline) for pipeline in loaded}) == 4
