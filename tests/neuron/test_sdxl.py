"""N6 to N9, N11 and N12: SDXL, its refiner, a distilled UNet, and one step on two cores."""

from __future__ import annotations

import pytest

CLOSE = 1e-4


@pytest.fixture(scope="module")
def base(bundles):
    return bundles("base")


@pytest.fixture(scope="module")
def refiner(bundles):
    return bundles("refiner")


@pytest.fixture(scope="module")
def found(base, refiner, models, there):
    return there(
        """
        answer = {}
        kinds = "StableDiffusionXL{}Pipeline"
        pipe, other = load(bundle), plain(model, kinds.format(""))
        size = {"height": 64, "width": 64}
        answer["text"] = apart(draw(pipe), draw(other, **size))

        said = {"image": picture(), "strength": 0.75, "num_inference_steps": 4}
        answer["image"] = apart(
            draw(load(bundle, pipeline=kinds.format("Img2Img")), **said),
            draw(plain(model, kinds.format("Img2Img")), **said),
        )
        said["mask_image"] = mask()
        answer["inpaint"] = apart(
            draw(load(bundle, pipeline=kinds.format("Inpaint")), **said),
            draw(plain(model, kinds.format("Inpaint")), **size, **said),
        )

        second = load(refined)
        plainly = plain(refiner, kinds.format("Img2Img"))
        answer["asks for a score"] = second.config.requires_aesthetics_score
        parted = {"num_inference_steps": 4, "output_type": "latent", "denoising_end": 0.5}
        rest = {"num_inference_steps": 4, "denoising_start": 0.5}
        answer["handed over"] = apart(
            draw(second, image=draw(pipe, **parted), **rest),
            draw(plainly, image=draw(other, **size, **parted), **rest),
        )
        whole = {"num_inference_steps": 4, "output_type": "latent"}
        answer["refined"] = apart(
            draw(second, image=draw(pipe, **whole), num_inference_steps=4),
            draw(plainly, image=draw(other, **size, **whole), num_inference_steps=4),
        )
        """,
        bundle=str(base.path),
        refined=str(refiner.path),
        model=str(models("sdxl")),
        refiner=str(models("refiner")),
    )


def test_n6_all_parts_of_sdxl_are_compiled(base):
    parts = {"text_encoder", "text_encoder_2", "unet", "vae_encoder", "vae_decoder"}
    assert set(base.manifest.whole.details["parts"]) == parts
    assert base.manifest.whole.error < CLOSE


def test_n7_one_folder_serves_text_image_and_inpainting(found):
    assert found["text"] < CLOSE
    assert found["image"] < CLOSE
    assert found["inpaint"] < CLOSE


def test_n8_the_refiner_takes_over_half_way(found):
    assert found["asks for a score"] is True
    assert found["handed over"] < CLOSE


def test_n9_the_refiner_takes_finished_latents(found):
    assert found["refined"] < CLOSE


@pytest.mark.full
def test_n11_a_replaced_unet_makes_it_a_latent_consistency_model(models, bundles, there):
    built = bundles("lcm-xl")
    unet = built.path.parents[1] / "distilled"
    found = there(
        """
        from diffusers import LCMScheduler, UNet2DConditionModel
        other = plain(model, "StableDiffusionXLPipeline",
                      unet=UNet2DConditionModel.from_pretrained(unet))
        other.scheduler = LCMScheduler.from_config(other.scheduler.config)
        pipe = load(bundle)
        said = {"num_inference_steps": 4, "guidance_scale": 8.0}
        one = draw(pipe, **said)
        answer = [
            apart(one, draw(other, height=64, width=64, **said)),
            apart(one, draw(pipe, **{**said, "guidance_scale": 1.5})),
            type(pipe.scheduler).__name__,
            pipe.data_parallel_mode,
        ]
        """,
        bundle=str(built.path),
        model=str(models("sdxl")),
        unet=str(unet),
    )
    assert found[0] < CLOSE
    assert found[1] > 10 * CLOSE
    assert found[2:] == ["LCMScheduler", "all"]


@pytest.mark.full
def test_n12_two_prompts_run_on_two_cores_in_one_step(models, bundles, there):
    built = bundles("turbo")
    found = there(
        """
        pipe = load(bundle)
        said = {"prompt": ["a cat", "a dog"], "num_inference_steps": 1, "guidance_scale": 0.0}
        other = plain(model, "StableDiffusionXLPipeline")
        answer = {
            "error": apart(draw(pipe, **said), draw(other, height=64, width=64, **said)),
            "mode": pipe.data_parallel_mode,
            "guided": raised(draw, pipe, **{**said, "guidance_scale": 5.0}),
        }
        """,
        bundle=str(built.path),
        model=str(models("sdxl")),
    )
    assert found["error"] < CLOSE
    assert found["mode"] == "all"
    assert found["guided"] == (
        'ValueError: guidance_scale=5.0 needs the UNet on two cores (data_parallel: "unet") or '
        'dynamic_batch: true; this pipeline has "all": pass guidance_scale=0'
    )
    assert built.manifest.whole.error < CLOSE
