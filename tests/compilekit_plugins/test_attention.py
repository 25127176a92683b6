"""`attention` (A2, D4): that the kernels, slices and tiles which were asked for really compute."""

from __future__ import annotations

import pytest
import torch
from support import SAMPLE, draw
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

import compilekit as ck
from compilekit.testing import tiny_pipeline

pytestmark = pytest.mark.usefixtures("process_as_before")


def apply(steps, family="sd", sample=None):
    recipe = ck.Recipe.from_steps(steps, sample=sample or SAMPLE)
    return ck.apply(recipe, tiny_pipeline(family), progress=False)


def chosen():
    """The kernel that torch chooses for a call as the UNet makes it."""
    q = torch.randn(1, 2, 16, 8)
    return SDPBackend(torch._fused_sdp_choice(q, q, q))


@pytest.mark.parametrize(
    ("kernel", "backend"),
    [("math", SDPBackend.MATH), ("flash", SDPBackend.FLASH_ATTENTION)],
)
def test_a2_the_kernel_holds_for_the_whole_process_and_is_recorded(kernel, backend):
    report = apply(f"attention{{sdpa=[{kernel}]}}").report
    assert chosen() == backend
    (step,) = report.steps
    assert step.matched["process"] == [kernel]
    kept = {change.kept for change in step.state.values()}
    assert kept == {
        "the kernels of scaled dot product attention are a setting of the whole process"
    }
    assert report.final[0].error < 1e-5


def test_a2_compiled_code_has_the_kernel_that_was_chosen():
    apply("attention{sdpa=[math]}, torch_compile{components=unet, backend=aot_eager}")
    with pytest.raises(ck.RecipeError, match=r"must come before|conflicts with"):
        ck.plan(ck.Recipe.from_steps("torch_compile{components=unet}, attention{sdpa=[math]}"))


@pytest.mark.full
def test_a2_a_bundle_sets_the_kernel_again_when_it_is_loaded(exporter, tmp_path, load):
    steps = "attention{sdpa=[math]}, eager_export{components=unet, modules=[mid_block]}"
    recipe = ck.Recipe.from_steps(steps, sample=SAMPLE)
    ck.build(recipe, tiny_pipeline("sd"), tmp_path / "made", host=exporter, progress=False)
    torch.backends.cuda.enable_flash_sdp(enabled=True)
    assert chosen() == SDPBackend.FLASH_ATTENTION
    pipe = load(tmp_path / "made")
    assert chosen() == SDPBackend.MATH
    assert draw(pipe).shape == (1, 32, 32, 3)


def test_a2_a_backend_by_name_reaches_models_that_ask_for_it(monkeypatch):
    used = []
    real = functional.scaled_dot_product_attention

    def spy(*args, **kwargs):
        used.append(chosen())
        return real(*args, **kwargs)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", spy)
    flux = dict(SAMPLE)
    done = apply("attention{components=transformer, backend=_native_math}", "flux", flux)
    (step,) = done.report.steps
    assert len(step.matched["transformer"]) > 1
    assert done.report.final[0].error < 1e-5
    used.clear()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        draw(done.pipeline)
    assert SDPBackend.MATH in used
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    assert _AttentionBackendRegistry._active_backend.value == "native"


def test_a2_a_backend_that_nothing_would_use_is_an_error():
    with pytest.raises(ck.NoMatchError, match="has nothing of what is asked"):
        apply("attention{components=unet, backend=_native_math}")


@pytest.mark.parametrize("backend", ["nosuch", "xformers", "sage"])
def test_a16_a_backend_that_is_not_there_is_an_error(backend):
    with pytest.raises(ck.StepError, match=rf"transformer: backend {backend}: "):
        apply(f"attention{{components=transformer, backend={backend}}}", "flux")


def test_a2_kernels_that_the_target_lacks_are_refused_by_the_plan():
    with pytest.raises(ck.RecipeError, match='the target "cpu" has no kernel "cudnn"'):
        ck.plan(ck.Recipe.from_steps("attention{sdpa=[cudnn, math]}"))
    assert ck.plan(ck.Recipe.from_steps("attention{sdpa=[cudnn, math]}", device="cuda")).steps


@pytest.mark.parametrize("given", ["", "{slicing=0}", "{backend=native, slicing=auto}"])
def test_options_that_make_no_sense_are_refused(given):
    with pytest.raises(ck.RecipeError, match=r"say which|at least one head|leave `backend`"):
        ck.plan(ck.Recipe.from_steps(f"attention{given}"))


@pytest.mark.parametrize("slicing", ["auto", "max", "1"])
def test_d4_slices_give_the_same_and_are_really_slices(slicing):
    done = apply(f"attention{{components=unet, slicing={slicing}}}")
    kinds = {type(p).__name__ for p in done.pipeline.unet.attn_processors.values()}
    assert kinds == {"SlicedAttnProcessor"}
    assert done.report.final[0].error < 1e-5


def test_d4_the_vae_works_by_parts():
    done = apply("attention{vae=[slicing, tiling]}")
    assert done.report.steps[0].matched == {"vae": ["slicing", "tiling"]}
    assert (done.pipeline.vae.use_slicing, done.pipeline.vae.use_tiling) == (True, True)
    assert done.report.end_to_end.psnr > 60


@pytest.mark.full
def test_d4_slices_go_into_a_bundle_where_python_runs(exporter, tmp_path, load):
    steps = "attention{components=[unet, vae], slicing=auto, vae=[slicing]}, "
    steps += "eager_export{components=vae.decode}"
    recipe = ck.Recipe.from_steps(steps, sample=SAMPLE)
    built = ck.build(recipe, tiny_pipeline("sd"), tmp_path / "made", host=exporter, progress=False)
    pipe = load(built.path)
    kinds = {type(p).__name__ for p in pipe.unet.attn_processors.values()}
    assert kinds == {"SlicedAttnProcessor"}
    assert abs(draw(pipe) - built.after.images).max() < 1e-4
