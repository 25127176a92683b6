"""`lora`: adapters that are fused, saved, quantised and built, against stock diffusers."""

from __future__ import annotations

import pytest
import torch
from adapters import (
    FILE,
    apply,
    distance,
    edited,
    picture,
    stock,
    trained,
)
from support import SAMPLE, draw

import compilekit as ck
from compilekit.testing import tiny_pipeline


@pytest.mark.parametrize(
    ("family", "fuse", "matched"),
    [
        ("sd", "true", {"unet": 32, "text_encoder": 8}),
        ("sd", "false", {"unet": 32, "text_encoder": 8}),
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
        "unet cannot be saved: diffusers would load it wrong, because steps[0].lora holds adapter "
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
        "unet": 32,
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
    assert (list(step.skipped), len(step.matched["unet"])) == (["other in unet"], 28)
    assert why.startswith("unet has no layer down_blocks.0.attentions.0.")
    assert why.endswith(" and 1 more")


def test_the_dropout_of_an_adapters_training_makes_no_noise(made, tmp_path):
    noisy = trained(made["first"], tmp_path / "noisy", lora_dropout=0.5)
    assert distance(picture(noisy), picture(made["first"])) > 1e-2
    pipe = apply(f"lora{{source={noisy}, hotswap=8}}").pipeline
    assert distance(draw(pipe), picture(made["first"])) < 1e-5
    # Nor does it keep one from being swapped for another that was trained without.
    pipe.load_lora_weights(made["wide"], hotswap=True)
    assert distance(draw(pipe), picture(made["wide"])) < 1e-5


def test_a_bundle_takes_fused_adapters_alone(made, exporter, tmp_path, load):
    compiled = "eager_export{components=unet, modules=[mid_block.attentions.0]}"
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
