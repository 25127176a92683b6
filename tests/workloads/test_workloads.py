"""Each row of the manual's workloads, groups A and D: its recipe, on a small model of its family.

What a GPU alone can show is in `test_gpu.py`. Recipes for CUDA run here on the CPU: the numbers and
what is done to the model are the same, the kernels are not.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import EAGER, WORKLOADS, small_recipe
from support import draw
from torch import nn
from typer.testing import CliRunner

import compilekit as ck
from compilekit.cli import app
from compilekit.recipe import library
from compilekit.testing import tiny_pipeline


def applied(name: str, pipeline: Any = None, **changes: Any) -> ck.Applied:
    recipe = small_recipe(name, **changes)
    return ck.apply(recipe, pipeline or tiny_pipeline("sd"), progress=False)


def error(done: ck.Applied, entry: str = "unet") -> float:
    return {m.entry: m.error for m in done.report.final}[entry]


def compiled(module: nn.Module) -> dict[str, str]:
    """The modules that are compiled, each for itself, and their classes."""
    return {
        path: type(part).__name__
        for path, part in module.named_modules()
        if part._compiled_call_impl is not None
        or hasattr(vars(part).get("forward"), "_torchdynamo_orig_callable")
    }


def test_a1_weights_are_bfloat16():
    done = applied("any/bfloat16")
    parameters = [*done.pipeline.unet.parameters(), *done.pipeline.vae.parameters()]
    assert {p.dtype for p in parameters} == {torch.bfloat16}
    assert 1e-4 < error(done) < 0.05


@pytest.mark.usefixtures("process_as_before")
def test_a2_the_math_kernel_computes_all_attention():
    done = applied("any/attention")
    with torch.profiler.profile() as profile:
        draw(done.pipeline)
    kernels = {event.key for event in profile.key_averages() if "attention" in event.key}
    assert "aten::_scaled_dot_product_attention_math" in kernels
    assert not any("flash" in kernel for kernel in kernels)
    assert error(done) < 1e-4


@pytest.mark.full
def test_a3_flags_hold_while_it_compiles_and_for_nothing_else(monkeypatch, tmp_path):
    from torch._inductor import config, graph

    flags = ("conv_1x1_as_mm", "coordinate_descent_tuning", "epilogue_fusion")
    seen = []
    generate = graph.GraphLowering.codegen

    def spy(self):
        seen.append({name: getattr(config, name) for name in flags})
        return generate(self)

    monkeypatch.setattr(graph.GraphLowering, "codegen", spy)
    # What inductor has in its cache it does not generate again.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    before = {name: getattr(config, name) for name in flags}
    (step,) = ck.Recipe.load("sd/inductor-flags").steps
    # torch still takes this flag of the guides, and ignores it.
    inductor = {**step.options["inductor"], "use_mixed_mm": True}
    options = {"torch_compile": {"components": ["unet.time_embedding"], "inductor": inductor}}
    done = applied("sd/inductor-flags", options=options)
    wanted = {"conv_1x1_as_mm": True, "coordinate_descent_tuning": True, "epilogue_fusion": False}
    assert seen == [wanted] * len(seen) != []
    assert {name: getattr(config, name) for name in flags} == before != wanted
    assert error(done) < 1e-4


def test_a4_convolutions_are_channels_last():
    done = applied("sd/channels-last")
    convolutions = [
        part.weight
        for module in (done.pipeline.unet, done.pipeline.vae)
        for part in module.modules()
        if isinstance(part, nn.Conv2d)
    ]
    assert len(convolutions) > 10
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in convolutions)
    assert error(done) < 1e-4


def test_a5_unet_and_decoder_are_compiled_and_callers_of_all_kinds_go_on():
    done = applied("sd/compile", options={"torch_compile": EAGER})
    unet, vae = done.pipeline.unet, done.pipeline.vae
    assert compiled(unet) == {"": "UNet2DConditionModel"}
    assert done.report.steps[0].details["graphs"] == 2
    assert done.report.steps[0].details["recompiles"] == []
    latents = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        picture = vae.decode(latents, return_dict=False)[0]
        assert torch.equal(picture, vae.decode(latents).sample)
    assert error(done) < 1e-4
    assert error(done, "vae.decode") < 1e-4


BLOCK = {**EAGER, "components": ["unet.down_blocks.0"]}
"""A block in place of the whole UNet, which takes long to trace."""


@pytest.mark.full
def test_a6_three_sizes_are_served_without_compiling_again():
    from compilekit_plugins.torch_compile.watch import Watch

    done = applied("sd/dynamic-shapes", options={"torch_compile": BLOCK})
    watch = Watch()
    watch.mark()
    for height, width in ((128, 64), (64, 128), (192, 128)):
        picture = draw(done.pipeline, height=height, width=width)
        plain = draw(tiny_pipeline("sd"), height=height, width=width)
        assert np.linalg.norm(picture - plain) < 1e-3 * np.linalg.norm(plain)
    assert watch.compiled_since_mark() == []


@pytest.mark.full
def test_a6_with_duck_shapes_another_size_compiles_again():
    from compilekit_plugins.torch_compile.watch import Watch

    options = {"torch_compile": {**BLOCK, "duck_shape": True}}
    done = applied("sd/dynamic-shapes", options=options)
    watch = Watch()
    watch.mark()
    draw(done.pipeline, height=128, width=64)
    assert len(watch.compiled_since_mark()) == 1


def test_a7_the_models_own_blocks_are_compiled_and_share_code():
    done = applied("sd/compile-regions", options={"torch_compile": EAGER})
    found = compiled(done.pipeline.unet)
    assert set(found.values()) == set(done.pipeline.unet._repeated_blocks)
    assert done.report.steps[0].details["graphs"] < len(found)
    assert error(done) < 1e-4


def test_a7_blocks_are_named_for_a_model_that_lists_none():
    done = applied("sd/compile-named-blocks", options={"torch_compile": EAGER})
    blocks = compiled(done.pipeline.unet)
    assert set(blocks.values()) == {"BasicTransformerBlock"}
    assert len(blocks) > 1


def test_a8_what_accelerate_would_compile_is_compiled_in_place(monkeypatch):
    from accelerate.utils import compile_regions

    by_accelerate = []
    with monkeypatch.context() as patch:
        patch.setattr(torch, "compile", lambda part, **_: by_accelerate.append(part) or part)
        unet = tiny_pipeline("sd").unet
        compile_regions(unet)
        names = {id(part): path for path, part in unet.named_modules()}
    done = applied("sd/compile-auto-regions", options={"torch_compile": EAGER})
    called = {names[id(part)] for part in by_accelerate if not isinstance(part, nn.ModuleList)}
    assert set(compiled(done.pipeline.unet)) == called
    assert error(done) < 1e-4


def test_a9_graph_breaks_are_shown_with_their_lines():
    class Noisy(nn.Linear):
        def forward(self, input):  # noqa: A002 - its name in torch
            sys.stdout.flush()
            return super().forward(input)

    recipe = ck.Recipe.from_steps("torch_compile{components=model, backend=eager}")
    inputs = {"input": torch.randn(2, 8)}
    done = ck.apply(recipe, Noisy(8, 8), inputs=inputs, progress=False)
    (broken,) = done.report.steps[0].details["graph_breaks"]
    assert re.match(rf"{re.escape(__file__)}:\d+: ", broken)
    assert "Encountered graph break" not in broken
    whole = applied("sd/graph-breaks", options={"torch_compile": EAGER})
    assert whole.report.steps[0].details["graph_breaks"] == []


def test_a10_the_schedulers_numbers_are_on_the_cpu():
    done = applied("any/scheduler-on-cpu")
    scheduler = done.pipeline.scheduler
    scheduler.set_timesteps(2, device="meta")
    sample = torch.ones(1, 4, 8, 8, device="meta")
    for timestep in scheduler.timesteps:
        scheduler.step(sample, timestep, sample)
    assert abs(draw(done.pipeline) - draw(tiny_pipeline("sd"))).max() == 0


def test_a11_linear_layers_that_pass_the_filter_are_int8():
    options = {"torchao_int8": {"min_features": 32}, "torch_compile": EAGER}
    done = applied("sd/int8", options=options)
    row = done.report.steps[0]
    matched = row.matched["unet"]
    unet = done.pipeline.unet
    assert matched
    assert all(hasattr(unet.get_submodule(n).weight, "__tensor_flatten__") for n in matched)
    assert {"rows a call" in why or "features" in why for why in row.skipped.values()} == {True}
    assert row.parameter_bytes < done.report.parameter_bytes
    assert 1e-4 < error(done) < 0.1


def test_a12_one_projection_takes_the_place_of_three():
    done = applied("sd/qkv-fusion")
    attention = done.pipeline.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1
    assert hasattr(attention, "to_qkv")
    assert not hasattr(attention, "to_q")
    assert error(done) < 1e-4


FLUX = {
    "torchao_int8": {"min_features": 32},
    "torch_compile": EAGER,
}


def test_a13_all_of_the_flux_recipe_together():
    done = applied("flux/aot", tiny_pipeline("flux"), options=FLUX)
    assert [row.name for row in done.report.steps] == [
        "scheduler", "channels_last", "qkv_fusion", "torchao_int8", "torch_compile", "torch_compile"
    ]  # fmt: skip
    assert done.report.steps[4].details["recompiles"] == []
    assert 1e-4 < error(done, "transformer") < 0.1
    assert ck.plan("flux/aot", for_="build").steps


@pytest.mark.full
def test_a13_the_flux_recipe_is_built_ahead_of_time_and_loads(tmp_path):
    options = {**FLUX, "torch_compile": {}}
    recipe = small_recipe("flux/aot", options=options)
    pipe = tiny_pipeline("flux", dtype=torch.bfloat16)
    built = ck.build(recipe, pipe, tmp_path / "flux", progress=False)
    loaded = ck.load(built.path, progress=False)
    picture = draw(loaded)
    assert np.linalg.norm(picture - built.after.images) < 0.05 * np.linalg.norm(picture)


@pytest.mark.full
def test_a15_flux_kontext_draws_from_a_picture(tmp_path, monkeypatch):
    from diffusers import FluxKontextPipeline

    picture = library.find("flux/kontext").with_suffix(".png")
    monkeypatch.chdir(tmp_path)
    Image.open(picture).save("kontext.png")
    pipe = FluxKontextPipeline(**tiny_pipeline("flux").components)
    auto = {"_auto_resize": False, "max_area": 32 * 32}
    done = applied("flux/kontext", pipe, options=FLUX, **auto)
    assert 1e-4 < error(done, "transformer") < 0.1
    assert done.report.end_to_end.psnr > 25


def test_a16_xformers_is_asked_for_by_name_where_it_is_installed():
    if importlib.util.find_spec("xformers") is None:
        with pytest.raises(ck.StepError, match=r"backend xformers: .*xformers"):
            applied("flux/xformers", tiny_pipeline("flux"))
        return
    assert error(applied("flux/xformers", tiny_pipeline("flux")), "transformer") < 0.02


def test_d1_prompts_that_share_a_seed_give_reproducible_pictures():
    done = applied("any/float16")
    assert {p.dtype for p in done.pipeline.unet.parameters()} == {torch.float16}
    assert done.after.images.shape == (3, 32, 32, 3)
    assert error(done) < 0.05

    def one_seed(prompts: list[str]) -> Any:
        generators = [torch.Generator().manual_seed(7) for _ in prompts]
        return draw(done.pipeline, prompt=prompts, generator=generators)

    both, first = one_seed(["a cat", "a dog"]), one_seed(["a cat"])
    assert np.array_equal(both, one_seed(["a cat", "a dog"]))
    assert abs(both[0] - first[0]).max() < 0.02


def test_d2_fewer_steps_of_another_scheduler():
    done = applied("sd/scheduler")
    assert type(done.pipeline.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert "DDIMScheduler" in {kind.__name__ for kind in done.pipeline.scheduler.compatibles}
    assert np.isfinite(done.after.images).all()
    assert error(done) < 1e-4


@pytest.mark.full
def test_d3_the_largest_batch_that_fits_is_found(tmp_path):
    tiny_pipeline("sd").save_pretrained(tmp_path / "model")
    found = ck.largest_batch(
        small_recipe("any/batch"), tmp_path / "model", limit=2, memory="90%", progress=False
    )
    assert [(trial.batch, trial.fits) for trial in found.trials] == [(1, True), (2, True)]
    assert all(trial.rate > 0 for trial in found.trials)


def test_d3_there_is_a_seeded_generator_for_each_picture():
    done = applied("any/batch")
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    four = draw(done.pipeline, num_images_per_prompt=4, generator=generators)
    third = draw(done.pipeline, generator=torch.Generator().manual_seed(2))
    assert abs(four[2] - third[0]).max() < 0.02


def test_d4_attention_is_computed_in_slices():
    done = applied("sd/attention-slicing")
    processors = {type(p).__name__ for p in done.pipeline.unet.attn_processors.values()}
    assert processors == {"SlicedAttnProcessor"}
    assert error(done) < 1e-4


def test_d5_another_vae_decodes(tmp_path):
    better = tiny_pipeline("sd", seed=5).vae
    better.save_pretrained(tmp_path / "better")
    options = {"swap_component": {"source": str(tmp_path / "better")}}
    done = applied("sd/vae", options=options)
    assert torch.equal(done.pipeline.vae.decoder.conv_in.weight, better.decoder.conv_in.weight)
    assert abs(draw(done.pipeline) - draw(tiny_pipeline("sd"))).max() > 1e-3


@pytest.mark.full
def test_d6_apply_draws_grids(tmp_path):
    tiny_pipeline("sd").save_pretrained(tmp_path / "model")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(small_recipe("any/image-grid").to_yaml())
    out = tmp_path / "out"
    arguments = ["apply", str(recipe), str(tmp_path / "model"), "--output", str(out)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    names = ("before.png", "after.png", "comparison.png")
    sizes = []
    for name in names:
        with Image.open(out / name) as picture:
            sizes.append(picture.size)
    before, after, (width, height) = sizes
    assert before == after >= (64, 64)
    assert width >= 4 * 32
    assert height >= 3 * 32


def test_every_row_has_a_test_and_every_recipe_of_a_row_is_run():
    source = Path(__file__).read_text(encoding="utf-8")
    tested = {match.upper() for match in re.findall(r"def test_([ad]\d+)_", source)}
    # A14 is `compilekit bench`, which has a file of tests of its own.
    assert tested == {*(f"A{n}" for n in range(1, 17)), *(f"D{n}" for n in range(1, 7))} - {"A14"}
    of_rows = [name for row, names in WORKLOADS.items() if row[0] in "AD" for name in names]
    on_gpu = (Path(__file__).parents[1] / "gpu" / "test_gpu.py").read_text(encoding="utf-8")
    assert [name for name in of_rows if f'"{name}"' not in source + on_gpu] == []
