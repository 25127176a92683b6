"""What a build writes: complete, in its final form, verified; and what it refuses."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import EXPORTER, SAMPLE, draw
from torch import nn

import compilekit as ck
from compilekit.testing import tiny_pipeline, tiny_text_encoder

STEPS = "eager_export{components=unet, modules=[mid_block]}"


@pytest.fixture
def build(tmp_path: Path, exporter: ck.Host) -> Callable[..., ck.Manifest]:
    """Build a bundle called `made`, without a word."""

    def _build(recipe: Any, subject: Any = None, **arguments: Any) -> Any:
        if isinstance(recipe, str):
            recipe = ck.Recipe.from_steps(recipe, sample=SAMPLE if subject is None else None)
        subject = tiny_pipeline("sd") if subject is None else subject
        arguments = {"host": exporter, "progress": False, **arguments}
        return ck.build(recipe, subject, tmp_path / "made", **arguments)

    return _build


def recipe_of(text: str) -> ck.Recipe:
    return ck.Recipe.parse(f"compilekit: 1\ntarget: {{device: cpu}}\n{text}")


SIZES = f"""
sample: {json.dumps(SAMPLE)}
shapes: [{{batch: 2}}, {{height: 96, width: 64}}, {{height: 96, width: 64, batch: 2}}]
steps: [{{eager_export: {{components: [unet], modules: [mid_block], sizes: KIND}}}}]
"""


def test_batches_share_a_part_and_other_sizes_get_their_own(build, tmp_path, load):
    built = build(recipe_of(SIZES.replace("KIND", "batch")))
    assert [str(part.signature).split(", temb")[0] for part in built.manifest.parts] == [
        "hidden_states: float32[1..4, 64, 16, 16]",
        "hidden_states: float32[1..4, 64, 24, 16]",
    ]
    pipeline, eager = load(tmp_path / "made"), tiny_pipeline("sd")
    for size in ({}, {"height": 96}):
        for prompt in ("a cat", ["a cat", "a dog"]):
            drawn = draw(pipeline, prompt=prompt, **size)
            assert abs(drawn - draw(eager, prompt=prompt, **size)).max() < 1e-5
    with pytest.raises(ck.UncoveredCallError, match=r"hidden_states is float32\[2, 64, 32, 16\]"):
        draw(pipeline, height=128)
    with pytest.raises(ck.UncoveredCallError, match=r"hidden_states is float32\[6, 64, 16, 16\]"):
        draw(pipeline, prompt=["a", "b", "c"])


def test_where_sizes_are_fixed_each_gets_a_part(build):
    built = build(recipe_of(SIZES.replace("KIND", "fixed")))
    sizes = [str(part.signature).split(", temb")[0] for part in built.manifest.parts]
    batches = [f"hidden_states: float32[{b}, 64, {h}, 16]" for h in (16, 24) for b in (1, 2, 4)]
    assert sorted(sizes) == sorted(batches)


def test_where_any_size_may_be_symbolic_one_part_serves_all(build):
    built = build(recipe_of(SIZES.replace("KIND", "any")))
    sizes = [str(part.signature).split(", temb")[0] for part in built.manifest.parts]
    assert sizes == ["hidden_states: float32[1..4, 64, 16..24, 16]"]


def test_a_size_that_the_pipeline_does_not_know_is_refused_at_its_place(build):
    recipe = recipe_of(SIZES.replace("KIND", "fixed").replace("height: 96", "hieght: 96"))
    with pytest.raises(ck.RecipeError) as caught:
        build(recipe)
    lines = [str(problem).partition(":")[2] for problem in caught.value.problems]
    assert lines == [
        f"5:{column}: shapes[{index}].hieght: StableDiffusionPipeline takes no such argument. "
        'Did you mean "height"?'
        for index, column in ((1, 31), (2, 56))
    ]


def test_a_plain_module_takes_batches(build, tmp_path, load):
    torch.manual_seed(0)
    net, x = Twice().eval(), torch.randn(3, 8)
    text = "shapes: [{batch: 1}, {batch: 6}]\nsteps: [{eager_export: {components: [model]}}]\n"
    with pytest.raises(ck.RecipeError, match=r'shapes.0..height: a module has only "batch" here'):
        build(recipe_of(text.replace("batch: 1", "height: 1")), Twice(), inputs={"x": x})
    built = build(recipe_of(text), net, inputs={"x": x})
    assert str(built.manifest.parts[0].signature) == "x: float32[1..6, 8], scale=1.0"
    loaded = load(tmp_path / "made")
    for batch in (1, 2, 6):
        given = torch.randn(batch, 8)
        with torch.no_grad():
            assert torch.allclose(loaded(given)["sum"], net(given)["sum"], atol=1e-6)


def test_a_part_for_one_size_takes_no_shapes(build):
    with pytest.raises(ck.StepError, match="a part serves calls of one size, and the recipe has"):
        build(recipe_of(SIZES.replace("KIND", "one")))


def test_blocks_that_are_alike_share_a_part_and_keep_their_own_weights(build, tmp_path, load):
    blocks = "[transformer_blocks.0, transformer_blocks.1, single_transformer_blocks.0]"
    steps = f"eager_export{{components=transformer, modules={blocks}}}"
    recipe = ck.Recipe.from_steps(steps, sample=SAMPLE)
    built = build(recipe, tiny_pipeline("flux"))
    parts = {entry.name: entry.parts for entry in built.manifest.entries}
    first, second, single = parts.values()
    assert first == second != single
    assert len(built.manifest.parts) == 2
    assert abs(draw(load(tmp_path / "made")) - draw(tiny_pipeline("flux"))).max() < 1e-5


def test_a_bundle_with_nothing_compiled_keeps_dtype_layout_and_structure(build, tmp_path, load):
    steps = "precision{dtype=bfloat16}, channels_last{components=[unet, vae]}, qkv_fusion{components=[unet, vae]}"  # noqa: E501
    built = build(steps)
    assert built.manifest.entries == ()
    pipeline = load(tmp_path / "made")
    assert np.array_equal(draw(pipeline), built.after.images)
    assert pipeline.unet.dtype == torch.bfloat16
    assert pipeline.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    attention = pipeline.vae.decoder.mid_block.attentions[0]
    assert hasattr(attention, "to_qkv")
    assert not hasattr(attention, "to_q")


def test_a_runtime_step_runs_again_and_remembers(build, tmp_path, load):
    built = build(f"precision{{dtype=bfloat16, components=[unet]}}, {STEPS}")
    pipeline = load(tmp_path / "made")
    assert (pipeline.unet.dtype, pipeline.vae.dtype) == (torch.bfloat16, torch.float32)
    assert np.array_equal(draw(pipeline), built.after.images)
    seen = []
    forward = pipeline.vae.decode
    pipeline.vae.decode = lambda z, *a, **k: seen.append(z.dtype) or forward(z, *a, **k)
    draw(pipeline)
    assert seen == [torch.float32]


def test_quantised_weights_need_nothing_of_torchao_when_they_are_compiled(build, tmp_path, load):
    blocks = "[transformer_blocks.0, context_embedder]"
    steps = (
        "precision{dtype=bfloat16}, torchao_int8{components=transformer, "
        f"include=['transformer_blocks.0.*', context_embedder]}}, "
        f"eager_export{{components=transformer, modules={blocks}, sizes=fixed}}"
    )
    built = build(ck.Recipe.from_steps(steps, sample=SAMPLE), tiny_pipeline("flux"))
    rows = built.manifest.component("transformer").tensors
    quantised = [row for row in rows if row.inner]
    assert all(row.key is None for row in quantised)
    assert all(row.key for row in rows if row.kind == "inner" and row.name.endswith("qdata"))
    pipeline = load(tmp_path / "made")
    assert abs(draw(pipeline) - built.after.images).max() < 0.02
    weight = pipeline.transformer.context_embedder.weight
    assert (weight.shape, weight.dtype) == ((64, 128), torch.bfloat16)
    with pytest.raises(ck.SealedError, match=r"context_embedder.weight is quantised, inside of"):
        weight.float()


def test_quantised_weights_that_nothing_compiles_are_refused(build, tmp_path):
    with pytest.raises(ck.StepError, match="is quantised, and nothing compiles it") as caught:
        build("torchao_int8{components=unet}")
    assert "unet: " in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_samples_pictures_travel_in_the_bundle(build, tmp_path, exporter):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "start.png")
    recipe = tmp_path / "in" / "recipe.yaml"
    recipe.write_text(
        "compilekit: 1\ntarget: {device: cpu}\n"
        "sample: {prompt: a cat, image: start.png, strength: 0.5, num_inference_steps: 4}\n"
        "steps: [{eager_export: {components: [unet], modules: [mid_block]}}]\n"
    )
    built = build(recipe, tiny_pipeline("sd-img2img"))
    assert built.manifest.sample["image"] == "sample/image.png"
    (tmp_path / "in" / "start.png").unlink()
    from compilekit.bundle.sample import run_sample

    pipeline = ck.load(tmp_path / "made", host=exporter, progress=False)
    again = run_sample(pipeline, ck.bundle_of(pipeline), {})
    assert np.array_equal(again.images, built.after.images)


@pytest.mark.parametrize("kind", ["sd-img2img", pytest.param("sd-inpaint", marks=pytest.mark.full)])
def test_encoders_and_both_ways_of_a_vae_are_compiled(kind, build, tmp_path, load):
    rng = np.random.default_rng(0)
    pictures = {"image": Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))}
    if kind == "sd-inpaint":
        mask = Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
        pictures |= {"mask_image": mask, "height": 64, "width": 64}
    for name, picture in pictures.items():
        if not isinstance(picture, int):
            picture.save(tmp_path / f"{name}.png")
    sample = {"prompt": "a cat", "strength": 0.75, "num_inference_steps": 4}
    sample |= {n: v if isinstance(v, int) else f"{tmp_path}/{n}.png" for n, v in pictures.items()}
    steps = "eager_export{components=[text_encoder, vae.encode, vae.decode]}"
    build(ck.Recipe.from_steps(steps, sample=sample), tiny_pipeline(kind))
    call = {**sample, **pictures, "output_type": "np"}
    images = []
    pipeline = load(tmp_path / "made")
    for each in (pipeline, tiny_pipeline(kind)):
        each.set_progress_bar_config(disable=True)
        images.append(each(**call, generator=torch.Generator().manual_seed(1)).images)
    assert abs(images[0] - images[1]).max() < 1e-4
    counts = {name: each.compiled for name, each in ck.bundle_of(pipeline).counts().items()}
    assert all(counts.values()), counts
    components = {c.name: c.whole for c in ck.Manifest.read(tmp_path / "made").components}
    assert components == {"unet": False, "vae": True, "text_encoder": True}


class Twice(nn.Module):
    """A module of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(8, 8)
        self.other = nn.Linear(8, 8)

    def forward(self, x, scale=1.0):
        return {"sum": self.one(x) + self.other(x) * scale, "x": x}


def test_a_module_of_ones_own_is_loaded_without_its_class(build, tmp_path, load):
    torch.manual_seed(0)
    net, x = Twice().eval(), torch.randn(3, 8)
    build("eager_export{components=model}", net, inputs={"x": x})
    loaded = load(tmp_path / "made")
    assert type(loaded).__name__ == "Shell"
    assert sorted(dict(loaded.named_parameters())) == sorted(dict(net.named_parameters()))
    with torch.no_grad():
        given, wanted = loaded(x + 1), net(x + 1)
    assert list(given) == ["sum", "x"]
    assert torch.allclose(given["sum"], wanted["sum"], atol=1e-6)
    with pytest.raises(ck.UncoveredCallError, match=r"scale=2.0"):
        loaded(x, scale=2.0)


def test_a_module_of_ones_own_must_be_compiled_whole(build):
    inputs = {"x": torch.randn(3, 8)}
    with pytest.raises(
        ck.ModelError, match="model: Twice is no class of diffusers or transformers"
    ):
        build("eager_export{components=model, modules=[one]}", Twice().eval(), inputs=inputs)


def test_a_plain_encoder_keeps_its_class_and_both_kinds_of_result(build, tmp_path, load):
    ids = torch.randint(5, 50, (4, 77), generator=torch.Generator().manual_seed(0))
    build("eager_export{components=model}", tiny_text_encoder(), inputs={"input_ids": ids})
    loaded, encoder = load(tmp_path / "made"), tiny_text_encoder()
    with torch.no_grad():
        wanted = encoder(ids)
        given, as_tuple = loaded(ids), loaded(ids, return_dict=False)
    assert type(loaded) is type(encoder)
    assert type(given) is type(wanted)
    assert torch.allclose(given.pooler_output, wanted.pooler_output, atol=1e-5)
    assert type(as_tuple) is tuple
    assert torch.equal(as_tuple[0], given.last_hidden_state)


def test_a_pipeline_class_that_diffusers_lacks_is_refused_before_any_work(build):
    pipeline = tiny_pipeline("sd")
    pipeline.__class__ = type("MyPipeline", (type(pipeline),), {})
    with pytest.raises(ck.ModelError, match="MyPipeline is not one of diffusers' own pipelines"):
        build(STEPS, pipeline)


def test_what_is_in_neither_config_nor_weights_is_noticed(build, tmp_path):
    pipeline = tiny_pipeline("sd")
    forward = pipeline.vae.decoder.forward
    pipeline.vae.decoder.forward = lambda *a, **k: forward(*a, **k) * 0.5
    with pytest.raises(ck.VerificationError, match="something of the model is in neither its"):
        build(ck.Recipe.from_steps("channels_last{components=vae}", sample=SAMPLE), pipeline)
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_is_there_is_refused_before_any_work(build, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "precious").write_text("x")
    with pytest.raises(ck.UsageError, match="made: is there already"):
        build("precision{dtype=bfloat16}", object())


def test_a_recipe_for_a_build_is_checked_as_one(build):
    with pytest.raises(ck.RecipeError, match="cannot compile ahead of time"):
        build("torch_compile{components=unet, backend=eager}")


SPOILT = {
    "raises": ("raise RuntimeError('no')", "return None", "export raised RuntimeError: no"),
    "interrupts": ("raise KeyboardInterrupt", "return None", ""),
    "gives nothing": ("return None", "return None", "export returned None, not a Part"),
    "gives no JSON": (
        "return ck.Part(details={'a': object()})",
        "return None",
        "export returned a Part whose `details` holds what JSON cannot",
    ),
    "loads nothing": ("return PART", "return None", "load_compiled returned None, not a function"),
    "gives other numbers": (
        "return PART",
        "return lambda inputs: [inputs[0] * 1.5]",
        "compiled for input: float32.3, 8., it is .* .relative L2. away from the Python code",
    ),
    "gives another count": (
        "return PART",
        "return lambda inputs: []",
        "the part gives 0 tensors, and the entry point 1",
    ),
    "gives NaN": (
        "return PART",
        "return lambda inputs: [inputs[0] * float('nan')]",
        "away from the Python code",
    ),
}


@pytest.mark.parametrize("kind", list(SPOILT))
def test_an_exporter_that_goes_wrong_is_named_and_nothing_is_left(kind, write, tmp_path):
    export, loads, message = SPOILT[kind]
    plugin = write(
        "spoilt.py",
        f"""
        import compilekit as ck
        PART = ck.Part()
        @ck.hookimpl
        def describe():
            return ck.StepDescription(
                help="x", options=ck.Options, exports=True,
                effects=lambda options, device: ck.effects("compiled"),
            )
        @ck.hookimpl
        def optimize_model(): raise AssertionError
        @ck.hookimpl
        def export(destination):
            (destination / "half").write_text("done")
            {export}
        @ck.hookimpl
        def load_compiled(): {loads}
        """,
    )
    recipe = ck.Recipe.from_steps("spoilt{components=model}")
    target = tmp_path / "out" / "made"
    raised = KeyboardInterrupt if kind == "interrupts" else ck.CompilekitError
    with pytest.raises(raised, match=message or None) as caught:
        ck.build(
            recipe,
            nn.Linear(8, 8).eval(),
            target,
            inputs={"input": torch.ones(3, 8)},
            host=ck.load_host([plugin]),
            progress=False,
        )
    if message:
        assert "spoilt" in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_plugin_that_exports_must_have_both_hooks(write):
    plugin = write(
        "half.py",
        """
        import compilekit as ck
        @ck.hookimpl
        def describe():
            return ck.StepDescription(
                help="x", options=ck.Options, exports=True,
                effects=lambda options, device: ck.effects("compiled"),
            )
        @ck.hookimpl
        def optimize_model(): ...
        @ck.hookimpl
        def export(): ...
        """,
    )
    with pytest.raises(
        ck.PluginLoadError, match="says `exports=True`, and does not implement load"
    ):
        ck.load_host([plugin])
    plugin.write_text(plugin.read_text().replace("exports=True,", ""))
    with pytest.raises(ck.PluginLoadError, match="implements export, and does not say `exports=T"):
        ck.load_host([plugin])


def test_a_size_that_the_code_fixes_is_compiled_apart(write, tmp_path):
    refusal = "    if any(context.symbols):\n        raise ck.SymbolicShapeError('fixed')\n"
    text = EXPORTER.read_text().replace("    dims = tuple(", f"{refusal}    dims = tuple(")
    host = ck.load_host([write("eager_export.py", text)])
    recipe = ck.Recipe.from_steps(STEPS, sample=SAMPLE)
    built = ck.build(recipe, tiny_pipeline("sd"), tmp_path / "made", host=host, progress=False)
    sizes = [str(part.signature).split(", temb")[0] for part in built.manifest.parts]
    assert sizes == [
        "hidden_states: float32[2, 64, 16, 16]",
        "hidden_states: float32[1, 64, 16, 16]",
    ]


class Blocks(nn.Module):
    """Two blocks of one class, whose settings differ where no weight shows it."""

    def __init__(self, *settings: Any) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(each) for each in settings)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Block(nn.Module):
    def __init__(self, setting: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.setting = setting

    def forward(self, x):
        setting = self.setting
        scale = setting["scale"] if isinstance(setting, dict) else setting()
        return self.layer(x) * scale


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (({"scale": 1.0}, {"scale": 1.0}), 1),
        (({"scale": 1.0}, {"scale": 1.001}), 2),
        ((functools.partial(float, 2), functools.partial(float, 3)), 2),
    ],
    ids=["alike", "a dict differs", "cannot be compared"],
)
def test_blocks_share_a_part_only_if_they_are_known_to_be_alike(settings, parts, exporter):
    from compilekit.building.alike import likeness
    from compilekit.model import Model

    model = Model(Blocks(*settings), inputs={"x": torch.ones(1, 8)})
    entries = [model.entry_point(f"model.blocks.{index}") for index in range(2)]
    assert len({likeness(entry) for entry in entries}) == parts


def test_every_block_is_compared_with_its_own_python(build, monkeypatch):
    monkeypatch.setattr("compilekit.building.export.likeness", lambda entry: "the same")
    steps = (
        "eager_export{components=transformer, modules=[transformer_blocks.0, transformer_blocks.1]}"
    )
    pipeline = tiny_pipeline("flux")
    odd = pipeline.transformer.transformer_blocks[1].ff
    odd.register_forward_hook(lambda module, args, output: 1.5 * output)
    with pytest.raises(ck.VerificationError, match=r"transformer_blocks\.1: compiled for .* away"):
        build(ck.Recipe.from_steps(steps, sample=SAMPLE), pipeline)


def test_precision_of_some_components_goes_with_compiling_others_whole(build, tmp_path, load):
    built = build(
        "precision{dtype=bfloat16, components=unet}, precision{dtype=float32, components=vae}, "
        "eager_export{components=vae.decode}"
    )
    pipeline = load(tmp_path / "made")
    assert np.array_equal(draw(pipeline), built.after.images)
    assert ck.bundle_of(pipeline).counts()["vae.decode"].compiled == 1


def test_weights_with_gaps_in_memory_are_stored_without(build, tmp_path, load):
    torch.manual_seed(0)
    net, x = Twice().eval(), torch.randn(3, 8)
    wide = torch.randn(8, 16)
    net.one.weight = nn.Parameter(wide[:, :8], requires_grad=False)
    with torch.no_grad():
        wanted = net(x)["sum"]
    build("eager_export{components=model}", net, inputs={"x": x})
    with torch.no_grad():
        assert torch.allclose(load(tmp_path / "made")(x)["sum"], wanted, atol=1e-6)


def test_what_no_step_names_is_run_from_the_bundle_too(build, tmp_path):
    pipeline = tiny_pipeline("sd")
    encoder = pipeline.text_encoder
    layers = (
        encoder.encoder.layers if hasattr(encoder, "encoder") else encoder.text_model.encoder.layers
    )
    del layers[-1]
    with pytest.raises(ck.VerificationError, match="loaded from the bundle it does not run"):
        build(ck.Recipe.from_steps(STEPS, sample=SAMPLE), pipeline)


def test_a_component_of_ones_own_class_is_refused_before_any_work(build):
    pipeline = tiny_pipeline("sd")
    pipeline.unet.__class__ = type("MyUNet", (type(pipeline.unet),), {})
    with pytest.raises(ck.ModelError, match="unet: MyUNet is no class of diffusers or transform"):
        build(STEPS, pipeline)


def test_a_method_of_a_module_of_ones_own_is_served(build, tmp_path, load):
    class Coder(Twice):
        def encode(self, x):
            return self.one(x)

        def decode(self, x):
            return self.other(x)

        def forward(self, x):
            return self.decode(self.encode(x))

    net, x = Coder().eval(), torch.randn(3, 8)
    steps = "eager_export{components=[model.encode, model.decode, model]}"
    build(steps, net, inputs={"x": x})
    loaded = load(tmp_path / "made")
    with torch.no_grad():
        assert torch.allclose(loaded.decode(loaded.encode(x)), net(x), atol=1e-6)
        assert torch.allclose(loaded(x), net(x), atol=1e-6)


def test_after_a_build_the_pipeline_runs_its_own_python(build):
    pipeline = tiny_pipeline("sd")
    build(ck.Recipe.from_steps(STEPS, sample=SAMPLE), pipeline)
    assert "forward" not in vars(pipeline.unet.mid_block)
    assert np.array_equal(draw(pipeline), draw(tiny_pipeline("sd")))


class TakesObject(nn.Module):
    def forward(self, x, how):
        return x * how.scale


def test_an_argument_that_no_bundle_can_hold_is_named(build):
    class How:
        scale = 2.0

    inputs = {"x": torch.ones(2), "how": How()}
    with pytest.raises(ck.StepError, match="is called with a How as how, which a bundle cannot"):
        build("eager_export{components=model}", TakesObject(), inputs=inputs)


def test_an_entry_point_that_the_sample_never_calls_is_named(build):
    with pytest.raises(ck.StepError, match=r"vae: the sample never calls it.*name `vae.decode`"):
        build("eager_export{components=vae}")


def test_the_last_line_says_what_was_built(build, tmp_path):
    built = build(STEPS)
    assert str(built).startswith(f"built {tmp_path / 'made'}: 1 part, ")
    assert str(built).endswith(" s")


def test_a_build_says_what_it_does(build, capsys):
    build(STEPS, progress=True)
    titles = [line.rpartition("  ")[0] for line in capsys.readouterr().err.splitlines()]
    assert titles == [
        "recording the sample",
        "float32 reference, and times before the first step",
        "[1/1] eager_export: unet",
        "running the sample again",
        "final check",
        "writing the bundle",
        "loading the bundle again",
    ]


def test_two_builds_of_one_recipe_write_the_same_weights_and_configs(tmp_path, exporter):
    def files(name: str) -> dict[str, str]:
        recipe = ck.Recipe.from_steps(STEPS, sample=SAMPLE)
        target = tmp_path / name
        made = ck.build(recipe, tiny_pipeline("sd"), target, host=exporter, progress=False)
        files = made.manifest.files
        return {f.path: f.sha256 for f in files if not f.path.startswith("parts/")}

    assert files("one") == files("other")


def test_nothing_of_this_machines_folders_is_in_a_bundle(pristine):
    for path in pristine.rglob("*"):
        if path.is_file() and path.name != "program.json":  # which is the tests' exporter's
            content = path.read_bytes()
            assert str(Path(ck.__file__).parents[1]).encode() not in content, path
            assert str(pristine.parent).encode() not in content, path
