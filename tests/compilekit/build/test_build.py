"""What a build writes: complete, in its final form, verified."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import EXPORTER, RESNET, SAMPLE, Twice, draw
from torch import nn

import compilekit as ck
from compilekit.testing import tiny_pipeline, tiny_text_encoder


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
    built = build(f"precision{{dtype=bfloat16, components=[unet]}}, {RESNET}")
    pipeline = load(tmp_path / "made")
    assert (pipeline.unet.dtype, pipeline.vae.dtype) == (torch.bfloat16, torch.float32)
    assert np.array_equal(draw(pipeline), built.after.images)
    seen = []
    forward = pipeline.vae.decode
    pipeline.vae.decode = lambda z, *a, **k: seen.append(z.dtype) or forward(z, *a, **k)
    draw(pipeline)
    assert seen == [torch.float32]


@pytest.mark.full
def test_quantised_weights_need_nothing_of_torchao_when_they_are_compiled(build, tmp_path, load):
    pytest.importorskip("torchao")
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


@pytest.mark.full
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


def test_the_samples_pictures_travel_in_the_bundle(build, tmp_path, exporter):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "start.png")
    recipe = tmp_path / "in" / "recipe.yaml"
    recipe.write_text(
        "compilekit: 1\ntarget: {device: cpu}\n"
        "sample: {prompt: a cat, image: start.png, strength: 0.5, num_inference_steps: 4}\n"
        "steps: [{eager_export: {components: [unet], modules: [mid_block.resnets.0]}}]\n"
    )
    built = build(recipe, tiny_pipeline("sd-img2img"))
    assert built.manifest.sample["image"] == "sample/image.png"
    (tmp_path / "in" / "start.png").unlink()
    from compilekit.load.run import run_sample

    pipeline = ck.load(tmp_path / "made", host=exporter, progress=False)
    again = run_sample(pipeline, ck.bundle_of(pipeline), {})
    assert np.array_equal(again.images, built.after.images)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["sd-img2img", "sd-inpaint"])
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
    build(ck.Recipe.from_steps(RESNET, sample=SAMPLE), pipeline)
    assert "forward" not in vars(pipeline.unet.mid_block.resnets[0])
    assert np.array_equal(draw(pipeline), draw(tiny_pipeline("sd")))


def test_the_last_line_says_what_was_built(build, tmp_path):
    built = build(RESNET)
    assert str(built).startswith(f"built {tmp_path / 'made'}: 1 part, ")
    assert str(built).endswith(" s")


def test_a_build_says_what_it_does(build, capsys):
    build(RESNET, progress=True)
    titles = [line.rpartition("  ")[0] for line in capsys.readouterr().err.splitlines()]
    assert titles == [
        "recording the sample",
        "float32 reference, and times before the first step",
        "a copy of the model as loaded, for its times",
        "[1/1] eager_export: unet",
        "running the sample again",
        "final check",
        "speed, in turn with the model as loaded",
        "writing the bundle",
        "loading the bundle again",
    ]


def test_two_builds_of_one_recipe_write_the_same_weights_and_configs(tmp_path, exporter):
    def files(name: str) -> dict[str, str]:
        recipe = ck.Recipe.from_steps(RESNET, sample=SAMPLE)
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


@pytest.mark.full
@pytest.mark.parametrize(
    "cast",
    [
        pytest.param("", id="float32"),
        pytest.param("precision{dtype=bfloat16}, ", id="bfloat16"),
    ],
)
def test_a_transformer_is_compiled_whole_and_diffusers_may_keep_a_register_in_it(
    cast, exporter, tmp_path, load
):
    recipe = ck.Recipe.from_steps(f"{cast}eager_export{{components=transformer}}", sample=SAMPLE)
    target = tmp_path / "made"
    built = ck.build(recipe, tiny_pipeline("flux"), target, host=exporter, progress=False)
    pipe = load(built.path)
    # Timesteps are recorded as the pipeline gave them, and the pipeline rounds them by then.
    assert {t.dtype for p in built.manifest.parts for t in p.signature.tensors if t.is_small} == {
        "float32"
    }
    assert abs(draw(pipe) - built.after.images).max() < 0.05
    (counts,) = ck.bundle_of(pipe).counts().values()
    assert counts.compiled == SAMPLE["num_inference_steps"]


class InPlace(nn.Linear):
    def forward(self, x):
        return super().forward(x.add_(1))


def test_a_module_may_write_into_its_inputs(build, load, tmp_path):
    net = InPlace(8, 8).eval()
    build("eager_export{components=model}", net, inputs={"x": torch.zeros(3, 8)})
    loaded = load(tmp_path / "made")
    with torch.no_grad():
        torch.testing.assert_close(loaded(x=torch.zeros(3, 8)), net(torch.zeros(3, 8)))


def test_what_a_file_manager_drops_into_a_build_is_no_part_of_it(build, exporter, tmp_path, write):
    text = (
        "import compilekit as ck\nfrom pathlib import Path\n@ck.hookimpl(wrapper=True)\n"
        "def export(destination, context):\n    (destination / '.DS_Store').touch()\n"
        "    (destination.parent / '._x').touch()\n    return (yield)\n"
    )
    host = ck.load_host([EXPORTER, write("litters.py", text)])
    inputs = {"input": torch.zeros(3, 8)}
    net = nn.Sequential(nn.Linear(8, 8)).eval()
    made = build("eager_export{components=model}", net, inputs=inputs, host=host).manifest
    assert not [file.path for file in made.files if "/." in file.path]
    ck.load(tmp_path / "made", host=exporter, progress=False)


def test_autocast_does_not_reach_into_compiled_code(build, load, tmp_path):
    build("eager_export{components=model}", Twice().eval(), inputs={"x": torch.ones(3, 8)})
    loaded, x = load(tmp_path / "made"), torch.ones(3, 8)
    with torch.no_grad():
        plain = loaded(x=x)["sum"]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(loaded(x=x)["sum"], plain)
