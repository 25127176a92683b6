"""N1 to N5 and N10: Stable Diffusion, exported, loaded in a new process, and drawn with."""

from __future__ import annotations

import json

import pytest

CLOSE = 1e-4
LATENT_STEPS = "num_inference_steps"


@pytest.fixture(scope="module")
def sd(bundles):
    return bundles("four")


@pytest.fixture(scope="module")
def compiler(sd, bundles):
    rows = [json.loads(line) for line in (bundles.logs / "four.log").read_text().splitlines()]
    return [row for row in rows if "flags" in row]


@pytest.fixture(scope="module")
def found(sd, models, there):
    return there(
        """
        pipe, folder = load(bundle), model
        one = draw(pipe)
        other = plain(folder)
        answer = {
            "class": type(pipe).__name__,
            "shape": list(one.shape),
            "error": apart(one, draw(other, num_images_per_prompt=4)),
            "guided": apart(one, draw(pipe, guidance_scale=2.0)),
        }
        prompts = ["a cat", "a dog"]
        answer["refused"] = [
            raised(draw, pipe, **said)
            for said in ({"height": 32}, {"width": 32}, {"prompt": prompts},
                         {"num_images_per_prompt": 1}, {"height": 64, "width": 64})
        ]
        from optimum.neuron import NeuronStableDiffusionPipeline
        alone = NeuronStableDiffusionPipeline.from_pretrained(bundle)
        answer["upstream alone"] = apart(one, draw(alone, num_images_per_prompt=4))
        """,
        bundle=str(sd.path),
        model=str(models("sd")),
    )


def test_n1_the_four_pictures_of_a_prompt_are_those_of_diffusers(sd, found):
    assert found["class"] == "NeuronStableDiffusionPipeline"
    assert found["shape"] == [4, 64, 64, 3]
    assert found["error"] < CLOSE
    assert sd.manifest.whole.error < CLOSE


def test_n3_the_guidance_scale_changes_the_picture(found):
    assert found["guided"] > 100 * CLOSE


def test_a_size_that_was_not_compiled_is_refused_by_name(found):
    *refused, covered = found["refused"]
    compiled = (
        "compiled is height 64, width 64, a batch of 1, and images for each prompt: 4: call it so, "
        "or build a bundle for that size"
    )
    what = ("height 32", "width 32", "a batch of 2", "images for each prompt: 1")
    assert refused == [
        f"UncoveredCallError: NeuronStableDiffusionPipeline: called with {said}; {compiled}"
        for said in what
    ]
    assert covered == "nothing"


def test_plain_optimum_neuron_loads_the_folder_too(found):
    assert found["upstream alone"] < CLOSE


def test_the_right_flags_reach_the_compiler(compiler):
    fast, unet = "--enable-fast-loading-neuron-binaries", "unet-inference"
    common = {"--auto-cast": ["none"], "--optlevel": ["2"], "--target": ["inf2"]}
    assert [row["module"] for row in compiler] == [
        "CLIPTextModel",
        "UNet2DConditionModel",
        "AutoencoderKL",
        "AutoencoderKL",
    ]
    flags = [row["flags"] for row in compiler]
    assert flags[0] == {**common, "--model-type": ["transformer"], fast: [""]}
    assert flags[1:] == [{**common, "--model-type": [unet], fast: [""]}] * 3


def test_fixed_sizes_reach_the_compiler(compiler):
    assert [row["shapes"] for row in compiler] == [
        [[1, 77]],
        [[4, 4, 32, 32], [4], [4, 77, 64]],
        [[4, 3, 64, 64]],
        [[4, 4, 32, 32]],
    ]


def test_what_the_stand_in_made_says_so(sd):
    assert sd.manifest.fingerprint["neuronx-cc"].endswith("+standin")
    config = json.loads((sd.path / "unet" / "config.json").read_text())
    assert config["neuron"]["compiler_version"].endswith("+standin")


@pytest.fixture(scope="module")
def cast(models, build, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cast")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURON_STANDIN_LOG", str(folder / "log"))
        build(
            models("sd"),
            folder / "sd",
            sample={},
            auto_cast="all",
            auto_cast_type="fp16",
            optlevel=3,
            instance_type="trn2",
            inline_weights=False,
            fuse_softmax=False,
        )
    return folder


def test_n2_casting_inlining_and_softmax_reach_the_compiler(cast):
    rows = [json.loads(line) for line in (cast / "log").read_text().splitlines()]
    assert len(rows) == 4
    for row in rows:
        assert row["flags"]["--auto-cast"] == ["all"]
        assert row["flags"]["--auto-cast-type"] == ["fp16"]
        assert row["flags"]["--optlevel"] == ["3"]
        assert row["flags"]["--target"] == ["trn2"]
        assert row["inline"] is False
        assert row["environment"] == {
            "NEURON_FUSE_SOFTMAX": "0",
            "NEURON_CUSTOM_SILU": "0",
            "NEURON_PLATFORM_TARGET_OVERRIDE": "trn2",
        }


def test_n4_image_to_image_runs_from_the_same_folder(cast, models, there):
    found = there(
        """
        pipe = load(bundle, pipeline="StableDiffusionImg2ImgPipeline")
        other = plain(model, "StableDiffusionImg2ImgPipeline")
        said = {"image": picture(), "strength": 0.75, "guidance_scale": 6.0,
                "num_inference_steps": 4}
        one = draw(pipe, **said)
        weaker = draw(pipe, **{**said, "strength": 0.5})
        answer = [apart(one, draw(other, **said)), apart(one, weaker)]
        """,
        bundle=str(cast / "sd"),
        model=str(models("sd")),
    )
    assert found[0] < CLOSE
    assert found[1] > 100 * CLOSE


@pytest.mark.full
def test_n5_inpainting_is_that_of_diffusers(models, build, there, tmp_path):
    built = build(models("inpaint"), tmp_path / "inpaint", sample={})
    found = there(
        """
        said = {"image": picture(), "mask_image": mask(), "guidance_scale": 5.0}
        one = draw(load(bundle), **said)
        other = draw(plain(model, "StableDiffusionInpaintPipeline"), height=64, width=64, **said)
        answer = apart(one, other)
        """,
        bundle=str(built.path),
        model=str(models("inpaint")),
    )
    assert found < CLOSE


def test_n10_the_guidance_of_a_latent_consistency_model_changes_the_picture(
    models, build, there, tmp_path
):
    built = build(models("lcm"), tmp_path / "lcm", sample={**SAMPLE_LCM, "seed": 7})
    found = there(
        """
        pipe = load(bundle)
        said = {"num_inference_steps": 4, "guidance_scale": 8.0}
        one, weaker = draw(pipe, **said), draw(pipe, **{**said, "guidance_scale": 1.5})
        other = draw(plain(model, "LatentConsistencyModelPipeline"), height=64, width=64, **said)
        answer = [apart(one, other), apart(one, weaker), pipe.data_parallel_mode]
        """,
        bundle=str(built.path),
        model=str(models("lcm")),
    )
    assert found[0] < CLOSE
    assert found[1] > 10 * CLOSE
    assert found[2] == "all"
    assert built.manifest.whole.error < CLOSE


SAMPLE_LCM = {"prompt": "a cat", LATENT_STEPS: 4, "guidance_scale": 8.0}


@pytest.mark.full
def test_a_dynamic_batch_takes_multiples_of_what_was_compiled(models, build, there, tmp_path):
    built = build(models("sd"), tmp_path / "dynamic", dynamic_batch=True)
    found = there(
        """
        pipe = load(bundle)
        prompts = ["a cat", "a dog"]
        answer = [
            apart(draw(pipe, prompt=prompts), draw(plain(model), prompt=prompts)),
            pipe.dynamic_batch_size,
        ]
        """,
        bundle=str(built.path),
        model=str(models("sd")),
    )
    assert found[0] < CLOSE
    assert found[1] is True
