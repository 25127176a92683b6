"""What upstream gets wrong: each fix is left out in turn, and what was promised does not hold."""

from __future__ import annotations

import shutil
import sys

import pytest
from neuron.conftest import ENVIRONMENT
from neuron.models import ip_adapter

import compilekit as ck
from compilekit_plugins.neuron import WORKER
from compilekit_plugins.neuron.options import Neuron


@pytest.fixture(scope="module")
def found(bundles, there):
    paths = {name: str(bundles(name).path) for name in ("four", "turbo", "refiner", "lcm-xl")}
    return there(
        """
        import optimum.neuron.modeling_diffusion  # once, for all the children

        XL = "StableDiffusionXLPipeline"
        IMAGE = "StableDiffusionXLImg2ImgPipeline"
        answer = {}

        def shape():
            return list(draw(without(fix, four, "StableDiffusionPipeline")).shape)

        def mode():
            return without(fix, turbo, XL, "all").data_parallel_mode

        def scheduler():
            pipe = without(fix, lcm, XL)
            return [type(pipe.scheduler).__name__, pipe.data_parallel_mode]

        def score():
            return without(fix, refiner, IMAGE).config.requires_aesthetics_score

        def refined():
            pipe = without(fix, refiner, IMAGE)
            latents = torch.zeros(1, 4, 32, 32)
            return list(draw(pipe, image=latents, num_inference_steps=4).shape)

        def guided():
            pipe = without(fix, turbo, XL, "all")
            said = {"prompt": ["a cat", "a dog"], "guidance_scale": 5.0}
            return list(draw(pipe, **said).shape)

        for fix, look in {
            "images-per-prompt": shape,
            "parallel-mode": mode,
            "lcm-by-config": scheduler,
            "refiner-load": score,
            "aesthetics-score": score,
            "latents-as-image": refined,
            "guidance-is-said": guided,
        }.items():
            wrong = in_child(look)
            name, fix = fix, ""
            answer[name] = [wrong, in_child(look)]
        """,
        four=paths["four"],
        turbo=paths["turbo"],
        refiner=paths["refiner"],
        lcm=paths["lcm-xl"],
    )


@pytest.mark.full
@pytest.mark.parametrize(
    ("fix", "wrong", "right"),
    [
        ("images-per-prompt", "neuron stand-in: compiled for shape [4, 4, 32, 32]", [4, 64, 64, 3]),
        ("parallel-mode", "unet", "all"),
        ("lcm-by-config", ["EulerDiscreteScheduler", "unet"], ["LCMScheduler", "all"]),
        ("refiner-load", "KeyError: 'text_encoder'", True),
        ("aesthetics-score", False, True),
        ("latents-as-image", "Boolean value of Tensor with more than one value", [1, 64, 64, 3]),
        ("guidance-is-said", [2, 64, 64, 3], "ValueError: guidance_scale=5.0 needs the UNet"),
    ],
)
def test_without_its_fix_a_loaded_pipeline_is_wrong(found, fix, wrong, right):
    for expected, actual in zip((wrong, right), found[fix], strict=True):
        if isinstance(expected, str):
            assert expected in actual
        else:
            assert actual == expected


def traced(model, folder, without=(), **options):
    """Trace a model's parts in the worker, with fixes left out."""
    shutil.copytree(model, folder / "model")
    request = {
        "do": "build",
        "level": "trace",
        "model": "model",
        "class": options.pop("kind"),
        "dtype": "float32",
        "options": Neuron(height=64, width=64, **options).model_dump(mode="json"),
        "without": list(without),
    }
    return ck.run_worker(
        WORKER, request, python=sys.executable, folder=folder, environment=ENVIRONMENT
    )["notes"]


@pytest.mark.full
def test_without_its_fix_the_guidance_of_a_latent_consistency_model_is_dead(models, tmp_path):
    with pytest.raises(ck.StepError) as caught:
        traced(
            models("lcm"),
            tmp_path,
            without=["lcm-guidance"],
            kind="LatentConsistencyModelPipeline",
        )
    assert "unet: the input timestep_cond changes nothing: no operation reads it" in str(
        caught.value
    )


@pytest.mark.full
def test_without_its_fix_an_image_prompt_cannot_be_compiled(models, tmp_path):
    source = ip_adapter(tmp_path / "ip" / "models")
    adapter = {"source": str(source.parent), "subfolder": "models", "weight_name": "ip.safetensors"}
    with pytest.raises(ck.StepError) as caught:
        traced(
            models("image-prompt"),
            tmp_path,
            without=["ip-adapter-embeds"],
            kind="StableDiffusionPipeline",
            ip_adapter=adapter,
        )
    assert "unet: it cannot be traced: Boolean value of Tensor" in str(caught.value)


def test_without_its_fix_attention_has_the_scale_of_other_heads(there):
    found = there(
        """
        def error(left):
            from compilekit_plugins.neuron.worker.fixes import mend
            from optimum.exporters.neuron import utils

            mend("export", left)
            class Head:
                upcast_attention = upcast_softmax = False
                scale = 16 ** -0.5
            torch.manual_seed(0)
            query, key = torch.randn(2, 1, 8, 16)
            exact = (query @ key.transpose(-1, -2) * Head.scale).softmax(-1)
            return apart(utils.get_attention_scores_sd(Head, query, key, None), exact)

        answer = [in_child(error, ["attention-scale"]), in_child(error, [])]
        """
    )
    assert found[0] > 0.01
    assert found[1] < 1e-6
