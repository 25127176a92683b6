from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from compilekit.errors import UsageError
from compilekit.testing import TINY_KINDS, tiny_pipeline, tiny_text_encoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLOW_KINDS = [kind for kind in TINY_KINDS if kind != "sd"]
EVERY_KIND = ["sd", *(pytest.param(kind, marks=pytest.mark.full) for kind in SLOW_KINDS)]


def draw(pipeline: Any, prompt: str = "a red circle", seed: int = 1) -> NDArray[np.float32]:
    import torch
    from PIL import Image

    image = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    by_class: dict[str, dict[str, Any]] = {
        "StableDiffusionImg2ImgPipeline": {"image": image, "strength": 1.0},
        "StableDiffusionInpaintPipeline": {"image": image, "mask_image": mask},
    }
    arguments = by_class.get(type(pipeline).__name__, {"height": 64, "width": 64})
    generator = torch.Generator().manual_seed(seed)
    output = pipeline(
        prompt, num_inference_steps=2, generator=generator, output_type="np", **arguments
    )
    picture: NDArray[np.float32] = output.images[0]
    return picture


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_every_kind_draws_a_finite_picture_that_is_neither_flat_nor_saturated(kind: str) -> None:
    picture = draw(tiny_pipeline(kind))

    assert picture.shape == (64, 64, 3)
    assert np.isfinite(picture).all()
    assert picture.std() > 0.05
    assert ((picture == 0) | (picture == 1)).mean() < 0.1


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_the_prompt_and_the_seed_decide_the_picture(kind: str) -> None:
    pipeline = tiny_pipeline(kind)
    picture = draw(pipeline)

    np.testing.assert_array_equal(picture, draw(pipeline))
    np.testing.assert_array_equal(picture, draw(tiny_pipeline(kind)))
    assert np.abs(picture - draw(pipeline, prompt="two dogs in the snow")).max() > 0.01
    assert np.abs(picture - draw(pipeline, seed=2)).max() > 0.01
    assert np.abs(picture - draw(tiny_pipeline(kind, seed=1))).max() > 0.01


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_saved_pipeline_loads_as_the_same_class_and_draws_the_same_picture(
    kind: str, tmp_path: Path
) -> None:
    from diffusers import DiffusionPipeline

    pipeline = tiny_pipeline(kind)
    pipeline.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path)

    assert type(loaded) is type(pipeline)
    # Mapped weights lie at other alignments, where BLAS may add up a row in another order.
    np.testing.assert_allclose(draw(loaded), draw(pipeline), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_the_denoiser_has_repeated_blocks_and_wide_linear_layers(kind: str) -> None:
    import torch

    pipeline = tiny_pipeline(kind)
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    repeated = [type(module).__name__ for module in denoiser.modules()]
    widths = [m.in_features for m in denoiser.modules() if isinstance(m, torch.nn.Linear)]

    assert all(repeated.count(name) >= 2 for name in denoiser._repeated_blocks)
    assert sum(width >= 64 for width in widths) >= 10
    assert 200_000 < sum(weight.numel() for weight in denoiser.parameters()) < 2_000_000


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_every_module_is_cast_to_the_dtype_asked_for_and_is_in_eval_mode(kind: str) -> None:
    import torch

    components = tiny_pipeline(kind, dtype=torch.bfloat16).components.values()
    modules = [component for component in components if isinstance(component, torch.nn.Module)]

    assert len(modules) >= 3
    assert not any(module.training for module in modules)
    assert {w.dtype for module in modules for w in module.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_building_neither_reads_nor_moves_the_global_random_state(kind: str) -> None:
    import torch

    before = torch.random.get_rng_state()
    first = draw(tiny_pipeline(kind, seed=3))
    assert torch.equal(torch.random.get_rng_state(), before)

    with torch.random.fork_rng(devices=[]):
        torch.rand(1)
        np.testing.assert_array_equal(draw(tiny_pipeline(kind, seed=3)), first)


def test_an_unknown_kind_is_an_error_that_lists_the_kinds() -> None:
    with pytest.raises(UsageError) as caught:
        tiny_pipeline("sdx")

    assert str(caught.value) == (
        'there is no tiny pipeline "sdx"; the kinds are '
        "sd, sd-img2img, sd-inpaint, sdxl, sd3, flux, pixart, and the classes in TINY_CLASSES"
    )


def test_the_tiny_text_encoder_is_a_plain_module_whose_weights_the_seed_decides() -> None:
    import torch

    tokens = torch.tensor([[512, 64, 65, 513]])
    with torch.no_grad():
        outputs = [tiny_text_encoder(seed)(tokens).last_hidden_state for seed in (0, 0, 1)]

    assert outputs[0].shape == (1, 4, 64)
    assert torch.isfinite(outputs[0]).all()
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])


def test_importing_the_kit_loads_neither_torch_nor_diffusers() -> None:
    code = (
        "import sys, compilekit.testing; "
        "print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )

    assert run.stdout == "[]\n"
