"""What a build refuses, and that it leaves nothing behind."""

from __future__ import annotations

import pytest
import torch
from support import EXPORTER, RESNET, SAMPLE, Twice
from torch import nn

import compilekit as ck
from compilekit.testing import tiny_pipeline


def test_quantised_weights_that_nothing_compiles_are_refused(build, tmp_path):
    pytest.importorskip("torchao")
    with pytest.raises(ck.StepError, match="is quantised, and nothing compiles it") as caught:
        build("torchao_int8{components=unet}")
    assert "unet: " in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_module_of_ones_own_must_be_compiled_whole(build):
    inputs = {"x": torch.randn(3, 8)}
    with pytest.raises(
        ck.ModelError, match="model: Twice is no class of diffusers or transformers"
    ):
        build("eager_export{components=model, modules=[one]}", Twice().eval(), inputs=inputs)


def test_a_pipeline_class_that_diffusers_lacks_is_refused_before_any_work(build):
    pipeline = tiny_pipeline("sd")
    pipeline.__class__ = type("MyPipeline", (type(pipeline),), {})
    with pytest.raises(ck.ModelError, match="MyPipeline is not one of diffusers' own pipelines"):
        build(RESNET, pipeline)


def test_a_component_of_ones_own_class_is_refused_before_any_work(build):
    pipeline = tiny_pipeline("sd")
    pipeline.unet.__class__ = type("MyUNet", (type(pipeline.unet),), {})
    with pytest.raises(ck.ModelError, match="unet: MyUNet is no class of diffusers or transform"):
        build(RESNET, pipeline)


def test_what_is_in_neither_config_nor_weights_is_noticed(build, tmp_path):
    pipeline = tiny_pipeline("sd")
    forward = pipeline.vae.decoder.forward
    pipeline.vae.decoder.forward = lambda *a, **k: forward(*a, **k) * 0.5
    with pytest.raises(ck.VerificationError, match="something of the model is in neither its"):
        build(ck.Recipe.from_steps("channels_last{components=vae}", sample=SAMPLE), pipeline)
    assert list(tmp_path.iterdir()) == []


def layers_of(encoder):
    return getattr(encoder, "text_model", encoder).encoder.layers


def without_a_layer():
    pipeline = tiny_pipeline("sd")
    del layers_of(pipeline.text_encoder)[-1]
    return pipeline


def with_another_width():
    pipeline = tiny_pipeline("sd")
    pipeline.vae.register_to_config(latent_channels=8)
    return pipeline


def with_a_config_that_makes_nothing():
    pipeline = tiny_pipeline("sd")
    pipeline.vae.register_to_config(norm_num_groups=7)
    return pipeline


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (without_a_layer, r"text_encoder: .*encoder.layers has 1 modules, and the config says 2"),
        (with_another_width, r"vae: .* is \[.*\], and the config says \["),
        (with_a_config_that_makes_nothing, "vae: a AutoencoderKL cannot be made of its config: "),
        # diffusers makes a ControlNet of the transformer, and changes the transformer's config.
        (
            lambda: tiny_pipeline("StableDiffusion3ControlNetPipeline"),
            "transformer: its config does not describe it: transformer_blocks has 3 modules, and",
        ),
    ],
)
def test_a_config_that_does_not_describe_its_model_is_refused_before_any_work(build, make, said):
    with pytest.raises(ck.ModelError, match=said):
        build("channels_last{components=vae}", make())


class Passing(nn.Module):
    def forward(self, x):
        return x


def test_what_no_step_names_is_run_from_the_bundle_too(build, tmp_path):
    pipeline = tiny_pipeline("sd")
    layers_of(pipeline.text_encoder)[-1].mlp = Passing()
    with pytest.raises(ck.VerificationError, match="loaded from the bundle it does not run"):
        build(ck.Recipe.from_steps(RESNET, sample=SAMPLE), pipeline)


def test_a_target_that_is_there_is_refused_before_any_work(build, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "precious").write_text("x")
    with pytest.raises(ck.UsageError, match="made: is there already"):
        build("precision{dtype=bfloat16}", object())


def test_a_second_build_of_a_target_is_refused_before_its_model_is_loaded(build, tmp_path):
    def first():
        with pytest.raises(ck.UsageError, match="made: another process is writing it at this mom"):
            build("precision{dtype=bfloat16}", lambda: pytest.fail("it was loaded"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build("precision{dtype=bfloat16}", first)
    assert list(tmp_path.iterdir()) == []


class Quiet(nn.Module):
    def forward(self, x):
        return x[:0]


class Beside(nn.Module):
    def __init__(self):
        super().__init__()
        self.quiet = Quiet()
        self.inner = nn.Linear(8, 8)

    def forward(self, x):
        self.quiet(x)
        return self.inner(x)


def test_a_part_whose_result_is_empty_is_not_called_verified(build):
    step = "eager_export{components=model, modules=[quiet]}"
    with pytest.raises(ck.StepError, match=r"model.quiet: its result holds no element of a tensor"):
        build(step, Beside().eval(), inputs={"x": torch.ones(2, 8)})


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
    "loads nothing": (
        "return PART",
        "return None",
        "load_compiled returned None, which cannot be called",
    ),
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
    assert not (tmp_path / "out").exists()


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


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(8)])
def test_a_layer_in_training_mode_is_refused(layer, build):
    net = nn.Sequential(nn.Linear(8, 8), layer)
    inputs = {"input": torch.randn(3, 8)}
    with pytest.raises(ck.ModelError, match=r"model.1 is a \w+ in training mode, .* call eval\(\)"):
        build("eager_export{components=model}", net, inputs=inputs)
    build("eager_export{components=model}", net.eval(), inputs=inputs)


def test_a_module_that_torch_compile_wraps_is_refused(build):
    net = torch.compile(Twice().eval(), backend="eager")
    with pytest.raises(ck.ModelError, match=r"model was compiled by torch.compile, which a bundle"):
        build("eager_export{components=model}", net, inputs={"x": torch.randn(3, 8)})


class Spaced(nn.Module):
    def __init__(self):
        super().__init__()
        self.add_module("a b", nn.Linear(8, 8))

    def forward(self, x):
        return getattr(self, "a b")(x)


def test_a_name_that_a_manifest_cannot_hold_is_told_in_plain_words(build):
    said = r"a b.weight is float32\[8, 8\], which a bundle cannot hold: its name has a space or a"
    with pytest.raises(ck.BundleError, match=said):
        build("eager_export{components=model}", Spaced().eval(), inputs={"x": torch.ones(3, 8)})


def test_a_target_in_another_bundle_is_refused(bundle, exporter):
    recipe, net = ck.Recipe.from_steps("eager_export{components=model}"), nn.Linear(8, 8)
    with pytest.raises(ck.UsageError, match=r"lies in the bundle .*, which holds nothing else"):
        ck.build(recipe, net, bundle / "parts" / "new", host=exporter, progress=False)


def test_a_hidden_file_of_a_part_is_no_raw_error(build, write):
    text = (
        "import compilekit as ck\n@ck.hookimpl(wrapper=True)\n"
        "def export(destination, context):\n    (destination / '.mine').touch()\n"
        "    return (yield)\n"
    )
    host = ck.load_host([EXPORTER, write("hides.py", text)])
    net = nn.Sequential(nn.Linear(8, 8)).eval()
    with pytest.raises(ck.BundleError, match=r"\.mine' is no plain path inside the bundle"):
        build("eager_export{components=model}", net, inputs={"input": torch.ones(3, 8)}, host=host)
