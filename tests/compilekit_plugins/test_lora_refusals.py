"""`lora`: what is refused, and in what words."""

from __future__ import annotations

import logging

import pytest
import torch
from adapters import (
    FILE,
    apply,
    distance,
    edited,
    picture,
    stock,
)
from support import SAMPLE, draw

import compilekit as ck
from compilekit.testing import tiny_pipeline


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
