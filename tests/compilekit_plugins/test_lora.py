"""`lora`: adapters that are fused, quantised, compiled and swapped, against stock diffusers."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import warnings

import numpy as np
import pytest
import torch
from support import SAMPLE, draw

import compilekit as ck
from compilekit.testing import tiny_pipeline

FILE = "pytorch_lora_weights.safetensors"
LAYERS = {
    "unet": ["to_q", "to_k", "to_v", "to_out.0"],
    "transformer": ["to_q", "to_k", "to_v"],
    "text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj"],
}


def adapter(folder, family="sd", parts=("unet",), *, rank=4, alpha=None, seed=1, layers=None):
    """Save an adapter of a tiny pipeline, as a training script would."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = trainee(family)
    random = torch.Generator().manual_seed(seed)
    saved = {}
    for part in parts:
        module = getattr(pipe, part)
        targets = layers or LAYERS[part]
        config = LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=targets)
        module.add_adapter(config, "made")
        state = get_peft_model_state_dict(module, adapter_name="made")
        saved[f"{part}_lora_layers"] = {
            name: torch.randn(value.shape, generator=random) * 0.2 for name, value in state.items()
        }
        saved[f"{part}_lora_adapter_metadata"] = module.peft_config["made"].to_dict()
    pipe.save_lora_weights(folder, **saved)
    pipe.unload_lora_weights()
    return folder


@functools.cache
def trainee(family):
    return tiny_pipeline(family)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Adapters, by name."""
    root = tmp_path_factory.mktemp("adapters")
    both = ("unet", "text_encoder")
    return {
        "sd": adapter(root / "sd", parts=both),
        "flux": adapter(root / "flux", "flux", ("transformer",)),
        "sd3": adapter(root / "sd3", "sd3", ("transformer",)),
        "first": adapter(root / "first", seed=2),
        "wide": adapter(root / "wide", rank=8, alpha=2, seed=3),
        "few": adapter(root / "few", rank=2, alpha=4, seed=4, layers=["attn1.to_q"]),
        "many": adapter(root / "many", seed=5, layers=[*LAYERS["unet"], "proj_in"]),
        "large": adapter(root / "large", rank=16, seed=6),
        "text": adapter(root / "text", parts=("text_encoder",), seed=7),
        "flux-wide": adapter(root / "flux-wide", "flux", ("transformer",), rank=8, seed=8),
    }


def apply(steps, family="sd", device="cpu"):
    recipe = ck.Recipe.from_steps(steps, sample=SAMPLE, device=device)
    return ck.apply(recipe, tiny_pipeline(family), progress=False)


def stock(*sources, family="sd", scales=None):
    """A pipeline with adapters, as diffusers itself loads them."""
    pipe = tiny_pipeline(family)
    names = [f"stock_{number}" for number in range(len(sources))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        for name, source in zip(names, sources, strict=True):
            pipe.load_lora_weights(source, adapter_name=name)
    if sources:
        pipe.set_adapters(names, list(scales or [1.0] * len(names)))
    return pipe


@functools.cache
def picture(*sources, family="sd", scales=None):
    """What it draws."""
    return draw(stock(*sources, family=family, scales=scales))


def distance(one, other):
    """How far two pictures are apart, as relative L2."""
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@contextlib.contextmanager
def nothing_is_compiled():
    from torch._dynamo.utils import counters

    from compilekit_plugins.torch_compile.watch import Watch

    watch, graphs = Watch(), counters["stats"]["unique_graphs"]
    with watch.open():
        watch.mark()
        yield
        assert watch.compiled_since_mark() == []
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.parametrize(
    ("family", "fuse", "matched"),
    [
        ("sd", "true", {"unet": 56, "text_encoder": 8}),
        ("sd", "false", {"unet": 56, "text_encoder": 8}),
        ("flux", "true", {"transformer": 15}),
        ("sd3", "false", {"transformer": 9}),
    ],
)
def test_the_picture_is_that_of_stock_diffusers(made, family, fuse, matched):
    done = apply(f"lora{{source={made[family]}, fuse={fuse}}}", family)
    (step,) = done.report.steps
    assert {name: len(found) for name, found in step.matched.items()} == matched
    assert step.details == {"adapters": [f"adapter_0: {made[family]}, rank 4, scale 1"]}
    assert distance(draw(done.pipeline), picture(made[family], family=family)) < 1e-5
    assert distance(draw(done.pipeline), picture(family=family)) > 1e-3
    # It means to change the picture, so it is in both pictures that are compared.
    assert done.report.end_to_end.psnr > 60


@pytest.mark.parametrize("fuse", ["true", "false"])
def test_several_adapters_act_together_each_with_its_scale(made, fuse):
    said = f"{{source: {made['wide']}, scale: 0.7}}, {{source: {made['text']}, name: words}}"
    last = f"{{source: {made['first']}, weight_name: {FILE}, scale: -0.4}}"
    done = apply(f"lora{{adapters=[{said}, {last}], fuse={fuse}}}")
    sources = [made["wide"], made["text"], made["first"]]
    wanted = picture(*sources, scales=(0.7, 1.0, -0.4))
    assert distance(draw(done.pipeline), wanted) < 1e-5
    assert done.report.steps[0].details["adapters"] == [
        f"adapter_0: {made['wide']}, rank 8, scale 0.7",
        f"words: {made['text']}, rank 4, scale 1",
        f"adapter_2: {made['first']}, rank 4, scale -0.4",
    ]


def test_fused_adapters_are_saved_as_plain_weights(made, tmp_path):
    from diffusers import StableDiffusionPipeline

    done = apply(f"lora{{source={made['sd']}, fuse=true}}")
    assert not any("lora" in name for name, _ in done.pipeline.unet.named_modules())
    done.pipeline.save_pretrained(tmp_path)
    again = StableDiffusionPipeline.from_pretrained(tmp_path)
    assert distance(draw(again), picture(made["sd"])) < 1e-5
    # And another adapter may be loaded on top.
    done.pipeline.load_lora_weights(made["wide"])
    assert distance(draw(done.pipeline), picture(made["sd"], made["wide"])) < 1e-5


def test_steps_after_fused_adapters_see_plain_weights(made):
    done = apply(f"lora{{source={made['sd']}, fuse=true}}, qkv_fusion{{components=unet}}")
    assert distance(draw(done.pipeline), picture(made["sd"])) < 1e-4


def test_adapters_that_are_not_fused_cannot_be_saved(made, tmp_path):
    done = apply(f"lora{{source={made['first']}}}")
    with pytest.raises(ck.SaveError) as caught:
        done.pipeline.save_pretrained(tmp_path / "saved")
    assert str(caught.value) == (
        "unet cannot be saved so that diffusers would load it alike: steps[0].lora holds adapter "
        "layers beside its weights, which a folder cannot hold; say `fuse: true`. Save before you "
        "apply the recipe, and apply it again after loading; or leave the step out"
    )
    assert list(done.report.not_savable) == ["unet"]


def test_an_adapter_acts_on_the_components_that_the_step_names(made):
    done = apply(f"lora{{source={made['sd']}, components=unet}}")
    wanted = stock(made["sd"])
    wanted.text_encoder.disable_adapters()
    assert distance(draw(done.pipeline), draw(wanted)) < 1e-5
    assert done.report.steps[0].skipped == {
        "adapter_0 in text_encoder": "text_encoder is not named by the step"
    }


def edited(source, target, edit, *, metadata=True):
    """Another file of an adapter, its tensors by other names."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(source / FILE, "pt") as file:
        said = file.metadata() if metadata else {"format": "pt"}
    tensors = edit(load_file(source / FILE))
    target.mkdir()
    save_file({name: t.contiguous() for name, t in tensors.items()}, target / FILE, metadata=said)
    return target


def test_files_of_other_trainers_keep_their_scale(made, tmp_path):
    def as_kohya(tensors):
        found = {}
        for name, tensor in tensors.items():
            layer, _, half = name.removesuffix(".weight").rpartition(".lora_")
            text = layer.startswith("text_encoder.")
            path = layer.partition(".")[2].replace(".", "_")
            start = f"lora_te_text_model_{path}" if text else f"lora_unet_{path}"
            found[f"{start}.lora_{'down' if half == 'A' else 'up'}.weight"] = tensor
            found[f"{start}.alpha"] = torch.tensor(2.0)
        return found

    folder = edited(made["sd"], tmp_path / "kohya", as_kohya, metadata=False)
    done = apply(f"lora{{source={folder}}}")
    (step,) = done.report.steps
    assert {name: len(found) for name, found in step.matched.items()} == {
        "unet": 56,
        "text_encoder": 8,
    }
    assert (step.skipped, step.details["adapters"][0][-15:]) == ({}, "rank 4, scale 1")
    assert distance(draw(done.pipeline), picture(made["sd"], scales=(0.5,))) < 1e-5


def test_layers_that_the_pipeline_lacks_are_reported(made, tmp_path):
    def other(tensors):
        return {name.replace("attn2.to_q", "attn2.to_z"): t for name, t in tensors.items()}

    folder = edited(made["first"], tmp_path / "other", other, metadata=False)
    (step,) = apply(f"lora{{source={folder}, name=other}}").report.steps
    (why,) = step.skipped.values()
    assert (list(step.skipped), len(step.matched["unet"])) == (["other in unet"], 49)
    assert why.startswith("unet has no layer down_blocks.0.attentions.0.")
    assert why.endswith(" and 4 more")


def trained(source, target, **settings):
    """The same adapter, trained with other settings."""
    from safetensors.torch import load_file, save_file

    said = {"r": 4, "lora_alpha": 4, "target_modules": LAYERS["unet"], **settings}
    text = json.dumps({f"unet.{name}": value for name, value in said.items()})
    target.mkdir()
    tensors = load_file(source / FILE)
    save_file(tensors, target / FILE, metadata={"format": "pt", "lora_adapter_metadata": text})
    return target


def test_the_dropout_of_an_adapters_training_makes_no_noise(made, tmp_path):
    noisy = trained(made["first"], tmp_path / "noisy", lora_dropout=0.5)
    assert distance(picture(noisy), picture(made["first"])) > 1e-2
    pipe = apply(f"lora{{source={noisy}, hotswap=8}}").pipeline
    assert distance(draw(pipe), picture(made["first"])) < 1e-5
    # Nor does it keep one from being swapped for another that was trained without.
    pipe.load_lora_weights(made["wide"], hotswap=True)
    assert distance(draw(pipe), picture(made["wide"])) < 1e-5


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
            "unet.down_blocks.1.attentions.0.proj_in, unet.mid_block.attentions.0.proj_in and 4 "
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


def test_a_bundle_takes_fused_adapters_alone(made, exporter, tmp_path, load):
    compiled = "eager_export{components=unet, modules=[mid_block]}"
    recipe = ck.Recipe.from_steps(f"lora{{source={made['sd']}}}, {compiled}", sample=SAMPLE)
    with pytest.raises(ck.RecipeError) as caught:
        ck.build(recipe, tiny_pipeline("sd"), tmp_path / "made", host=exporter, progress=False)
    assert str(caught.value) == (
        "<steps>:1:1: steps[0].lora: a bundle's component is made again from its config, which "
        "knows of no adapter layers: say `fuse: true`"
    )
    steps = f"lora{{source={made['sd']}, fuse=true}}, {compiled}"
    recipe = ck.Recipe.from_steps(steps, sample=SAMPLE)
    built = ck.build(recipe, tiny_pipeline("sd"), tmp_path / "made", host=exporter, progress=False)
    assert distance(draw(load(built.path)), picture(made["sd"])) < 1e-4


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("", "say the `source` of one adapter, or several `adapters`"),
        ("{source=a, adapters=[{source: b}]}", "say the `source` of one adapter"),
        ("{name=x, adapters=[{source: b}]}", "say the `source` of one adapter"),
        ("{source=a, fuse=true, hotswap=4}", "leave `fuse` or `hotswap` out"),
        ("{adapters=[{source: a}, {source: b}], hotswap=4}", "so name only one"),
        ("{adapters=[{source: a, name: x}, {source: b, name: x}]}", 'have the name "x"'),
        ("{adapters=[{source: a, name: adapter_1}, {source: b}]}", 'have the name "adapter_1"'),
        ("{source=a, hotswap=0}", "must be at least 1, not 0"),
        ("{source=a, name=x.y}", "should match pattern"),
        ("{source=a, ranks=4}", 'unknown key "ranks"'),
        ("{adapters=[{source: a, scales: 2}]}", 'unknown key "scales". Did you mean "scale"?'),
    ],
)
def test_options_that_make_no_sense_are_refused_by_the_plan(given, why):
    with pytest.raises(ck.RecipeError) as caught:
        ck.plan(ck.Recipe.from_steps(f"lora{given}"))
    assert why in str(caught.value)


def test_the_canonical_form_of_a_recipe_can_be_read_again():
    steps = "lora{adapters=[{source: a, scale: 0.5}, {source: b}], fuse=true}"
    planned = ck.plan(ck.Recipe.from_steps(steps)).steps[0].options
    assert type(planned).model_validate(planned.model_dump()) == planned


def test_it_comes_before_what_would_not_see_it():
    def problems(steps):
        with pytest.raises(ck.RecipeError) as caught:
            ck.plan(ck.Recipe.from_steps(steps))
        return str(caught.value)

    fused = problems("qkv_fusion{components=unet}, lora{components=unet, source=a, fuse=true}")
    assert 'it conflicts with "fused_qkv", which steps[0].qkv_fusion gives' in fused
    assert fused.endswith("The right order is: lora(unet), qkv_fusion(unet).")
    compiled = problems("torch_compile{components=unet}, lora{components=unet, source=a}")
    assert "it changes structure, which compiled code does not see" in compiled
    quantised = problems("torchao_int8{components=unet}, lora{components=unet, source=a}")
    assert 'it conflicts with "quantised_weights"' in quantised
    fusing = problems("lora{components=unet, source=a}, qkv_fusion{components=unet}")
    assert 'it conflicts with "lora_layers", which steps[0].lora gives' in fusing
    twice = problems("lora{source=a}, lora{source=b}")
    assert 'the pipeline is "lora_layers" already, by steps[0].lora' in twice


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{root}/frist", 'there is no such file or folder. Did you mean "{root}/first"?'),
        ("{own}/x.y", "there is no such file or folder."),
        ("{own}/empty", "has no .safetensors file"),
        ("{own}/two", "say which file as `weight_name`; it has x.safetensors, y.safetensors"),
        ("{own}/two, weight_name=z.st", 'has no file "z.st"; it has x.safetensors, y.safetensors'),
        ("{own}/two/x.safetensors, weight_name=x", "is a file itself: leave `weight_name` out"),
        ("{own}/w.bin", "w.bin is no .safetensors file; others can hold code, and are not read"),
        (
            "{own}/two/x.safetensors",
            "cannot be loaded: Error while deserializing header: header too large",
        ),
    ],
)
def test_a_file_that_is_not_there_or_cannot_be_read_is_named(made, tmp_path, source, why):
    (tmp_path / "empty").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("two/x.safetensors", "two/y.safetensors", "w.bin"):
        (tmp_path / name).write_bytes(b"no adapter at all")
    root = made["first"].parent
    given = source.format(root=root, own=tmp_path)
    with pytest.raises(ck.StepError) as caught:
        apply(f"lora{{source={given}}}")
    said = why.format(root=root)
    place = given.partition(",")[0]
    assert str(caught.value).replace(f"{place} ", f"{place}: ") == f"steps[0].lora: {place}: {said}"


def test_a_file_that_breaks_off_while_it_is_read_is_named(made, tmp_path):
    whole = (made["first"] / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ck.StepError, match=r"cannot be loaded: .*incomplete metadata"):
        apply(f"lora{{source={tmp_path}}}")


def test_an_adapter_of_the_hub_is_found_in_its_cache(made, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ck.StepError) as caught:
        apply("lora{source=someone/style}")
    assert str(caught.value).startswith(
        "steps[0].lora: someone/style: is no file or folder here, and the hub does not give its "
        "pytorch_lora_weights.safetensors: "
    )
    assert str(caught.value).endswith("Is its name another one? Say it as `weight_name`.")
    commit = "0" * 40
    stored = tmp_path / "models--someone--style" / "snapshots" / commit
    stored.mkdir(parents=True)
    (stored / "oil.safetensors").symlink_to(made["first"] / FILE)
    (tmp_path / "models--someone--style" / "refs").mkdir()
    (tmp_path / "models--someone--style" / "refs" / "v1").write_text(commit)
    done = apply("lora{source=someone/style, weight_name=oil.safetensors, revision=v1}")
    assert distance(draw(done.pipeline), picture(made["first"])) < 1e-5


def test_an_adapter_that_matches_nothing_is_an_error_that_names_its_keys(made):
    with pytest.raises(ck.StepError) as caught:
        apply(f"lora{{source={made['flux']}}}")
    assert str(caught.value) == (
        f"steps[0].lora: {made['flux']} matches no layer of this pipeline; its keys are "
        "transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight, "
        "transformer.single_transformer_blocks.0.attn.to_k.lora_B.weight, "
        "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight and 27 more"
    )
    with pytest.raises(ck.StepError, match="matches no layer of vae; its keys are unet"):
        apply(f"lora{{source={made['first']}, components=vae}}")


def test_an_adapter_of_another_model_is_an_error_with_the_layer(made, tmp_path):
    def wider(tensors):
        return {n: t.repeat(1, 2) if "lora_A" in n else t for n, t in tensors.items()}

    folder = edited(made["first"], tmp_path / "wider", wider)
    with pytest.raises(ck.StepError, match=r"cannot be loaded: .* size mismatch for down_blocks"):
        apply(f"lora{{source={folder}}}")


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


def test_a_pipeline_that_has_adapters_or_takes_none_is_refused(made):
    recipe = ck.Recipe.from_steps(f"lora{{source={made['first']}}}", sample=SAMPLE)
    with pytest.raises(ck.StepError, match="unet has adapters already: call `unload_lora_weights"):
        ck.apply(recipe, stock(made["wide"]), progress=False)
    with pytest.raises(ck.StepError, match="a PixArtSigmaPipeline cannot load LoRA adapters"):
        ck.apply(recipe, tiny_pipeline("pixart"), progress=False)
    inputs = {"input": torch.ones(1, 8)}
    with pytest.raises(ck.StepError, match="a Linear cannot load LoRA adapters"):
        ck.apply(recipe, torch.nn.Linear(8, 8), inputs=inputs, progress=False)
    with pytest.raises(ck.StepError, match=r"unet\.mid_block is part of a component"):
        apply(f"lora{{source={made['first']}, components=[unet.mid_block]}}")


def test_libraries_keep_quiet_and_talk_again_afterwards(made, capfd, monkeypatch):
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    said = []
    listener = logging.Handler()
    listener.emit = said.append
    monkeypatch.setattr(logging.getLogger("diffusers"), "handlers", [listener])
    before = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    pipe = apply(f"lora{{source={made['text']}}}").pipeline
    assert (tuple(capfd.readouterr()), said) == (("", ""), [])
    now = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    assert (now, transformers_logging.is_progress_bar_enabled()) == (before, True)
    assert "lora_state_dict" not in vars(pipe)


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
