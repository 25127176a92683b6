"""`lora` with `hotswap`: swaps compile nothing, and what does not fit leaves all as it was."""

from __future__ import annotations

import pytest
import torch
from adapters import (
    apply,
    distance,
    edited,
    nothing_is_compiled,
    picture,
    stock,
    trained,
)
from support import SAMPLE, draw

import compilekit as ck
from compilekit.testing import tiny_pipeline


def test_what_diffusers_refuses_to_swap_in_leaves_all_as_it_was(made, tmp_path):
    other = trained(made["wide"], tmp_path / "other", r=8, alpha_pattern={"to_q": 3})
    steps = f"lora{{source={made['first']}, hotswap=8, scale=0.5}}, torch_compile{{components=unet"
    pipe = apply(f"{steps}, regions=[Attention], backend=eager}}").pipeline
    with pytest.raises(ValueError, match="Configs are incompatible: for alpha_pattern"):
        pipe.load_lora_weights(other, hotswap=True)
    few = picture(made["few"])
    with nothing_is_compiled():
        assert distance(draw(pipe), picture(made["first"], scales=(0.5,))) < 1e-5
        pipe.load_lora_weights(made["few"], hotswap=True)
        assert distance(draw(pipe), few) < 1e-5


SWAPS = ("wide", "few", "first")


@pytest.mark.full
def test_swaps_compile_nothing_where_the_whole_unet_is_compiled(made):
    steps = f"lora{{source={made['first']}, hotswap=8}}, torch_compile{{components=unet, "
    pipe = apply(f"{steps}backend=eager, fullgraph=true}}").pipeline
    for name in SWAPS:
        wanted = picture(made[name])
        with nothing_is_compiled():
            pipe.load_lora_weights(made[name], hotswap=True)
            assert distance(draw(pipe), wanted) < 1e-5


def test_swaps_compile_nothing_where_inductor_compiled_blocks(made):
    steps = f"lora{{source={made['flux']}, hotswap=8, name=style, scale=0.5}}, torch_compile"
    regions = "components=transformer, regions=[FluxSingleTransformerBlock]"
    pipe = apply(f"{steps}{{{regions}}}", "flux").pipeline
    assert distance(draw(pipe), picture(made["flux"], family="flux", scales=(0.5,))) < 1e-4
    wanted = picture(made["flux-wide"], family="flux")
    with nothing_is_compiled():
        pipe.load_lora_weights(made["flux-wide"], hotswap=True, adapter_name="style")
        assert distance(draw(pipe), wanted) < 1e-4


@pytest.mark.full
def test_another_scale_compiles_nothing_and_is_that_of_the_adapter_which_is_in(made):
    steps = f"lora{{source={made['first']}, hotswap=8, scale=0.5}}, torch_compile{{components=unet"
    pipe = apply(f"{steps}, regions=model, backend=eager}}").pipeline
    assert distance(draw(pipe), picture(made["first"], scales=(0.5,))) < 1e-5
    for name, scale in (("wide", 0.3), ("few", -1.0), ("first", 2.0)):
        wanted, plain = picture(made[name], scales=(scale,)), picture(made[name])
        with nothing_is_compiled():
            pipe.load_lora_weights(made[name], hotswap=True)
            assert distance(draw(pipe), plain) < 1e-5
            pipe.set_adapters("adapter_0", scale)
            assert distance(draw(pipe), wanted) < 1e-5


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("large", "its rank is 16, and `hotswap` of the recipe 8"),
        (
            "many",
            "the first one has no layer unet.down_blocks.0.attentions.0.proj_in, "
            "unet.mid_block.attentions.0.proj_in, unet.up_blocks.1.attentions.0.proj_in and 1 "
            "more; begin with one that has them all",
        ),
        (
            "text",
            "the first one has no layer text_encoder.encoder.layers.0.self_attn.k_proj."
            "lora_A.weight, text_encoder.encoder.layers.0.self_attn.k_proj.lora_B.weight, "
            "text_encoder.encoder.layers.0.self_attn.out_proj.lora_A.weight and 13 more; "
            "begin with one that has them all",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_not_swapped_in(made, name, why):
    pipe = apply(f"lora{{source={made['first']}, hotswap=8}}").pipeline
    with pytest.raises(ck.UsageError) as caught:
        pipe.load_lora_weights(made[name], hotswap=True)
    assert str(caught.value) == f"this adapter cannot be swapped in: {why}"
    assert distance(draw(pipe), picture(made["first"])) < 1e-5
    pipe.load_lora_weights(made["few"], hotswap=True)
    assert distance(draw(pipe), picture(made["few"])) < 1e-5


def test_an_adapter_of_another_model_is_not_swapped_in(made, tmp_path):
    def wider(tensors):
        return {n: t.repeat(1, 2) if "lora_A" in n else t for n, t in tensors.items()}

    pipe = apply(f"lora{{source={made['first']}, hotswap=8}}").pipeline
    with pytest.raises(
        ck.UsageError, match=r"for another model, by the shape of unet\.down_blocks"
    ):
        pipe.load_lora_weights(edited(made["few"], tmp_path / "wider", wider), hotswap=True)
    assert distance(draw(pipe), picture(made["first"])) < 1e-5


def test_where_the_step_names_components_swaps_leave_out_the_rest_too(made):
    pipe = apply(f"lora{{source={made['sd']}, components=unet, hotswap=4}}").pipeline
    pipe.load_lora_weights(made["first"], hotswap=True)
    assert distance(draw(pipe), picture(made["first"])) < 1e-5
    pipe.load_lora_weights(made["sd"], hotswap=True)
    wanted = stock(made["sd"])
    wanted.text_encoder.disable_adapters()
    assert distance(draw(pipe), draw(wanted)) < 1e-5
    with pytest.raises(ck.UsageError, match="it has nothing for unet"):
        pipe.load_lora_weights(made["text"], hotswap=True)


@pytest.mark.full
def test_cast_and_swapped(made):
    later = "channels_last{components=[unet, vae]}, precision{dtype=bfloat16}"
    pipe = apply(f"lora{{source={made['first']}, hotswap=32}}, {later}").pipeline
    assert distance(draw(pipe), picture(made["first"])) < 0.03
    pipe.load_lora_weights(made["large"], hotswap=True)
    assert distance(draw(pipe), picture(made["large"])) < 0.03
    assert distance(draw(pipe), picture()) > 0.1


@pytest.mark.full
def test_quantised_compiled_and_swapped(made):
    steps = f"lora{{source={made['first']}, hotswap=8, fuse=false}}, precision{{dtype=bfloat16}}, "
    steps += "torchao_int8{components=unet, min_features=32, min_rows=1}, "
    steps += "torch_compile{components=unet, regions=[Attention], backend=eager}"
    pipe = apply(steps).pipeline
    wanted = picture(made["wide"])
    with nothing_is_compiled():
        pipe.load_lora_weights(made["wide"], hotswap=True)
        assert distance(draw(pipe), wanted) < 0.03


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("{large}, hotswap=8", "{large} has rank 16 in unet, over hotswap 8"),
        (
            "{sd}, hotswap=8",
            "{sd} is also for text_encoder, where adapters cannot be swapped: name the components "
            "to leave that part out (`components: [unet]`, say), or leave `hotswap` out",
        ),
    ],
)
def test_what_cannot_be_made_ready_for_swaps_is_refused_before_it_is_loaded(made, given, why):
    pipe = tiny_pipeline("sd")
    recipe = ck.Recipe.from_steps(f"lora{{source={given.format(**made)}}}", sample=SAMPLE)
    with pytest.raises(ck.StepError) as caught:
        ck.apply(recipe, pipe, progress=False)
    assert str(caught.value) == f"steps[0].lora: {why.format(**made)}"
    assert not any("lora" in name for name, _ in pipe.unet.named_modules())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_swaps_compile_nothing_on_a_gpu(made, mode):
    steps = f"lora{{source={made['first']}, hotswap=8}}, torch_compile{{components=unet"
    pipe = apply(f"{steps}, mode={mode}}}", device="cuda").pipeline
    for name, scale in (("wide", 0.5), ("few", 1.0), ("first", 2.0)):
        wanted = draw(stock(made[name], scales=(scale,)).to("cuda"))
        with nothing_is_compiled():
            pipe.load_lora_weights(made[name], hotswap=True)
            pipe.set_adapters("adapter_0", scale)
            assert distance(draw(pipe), wanted) < 1e-3
