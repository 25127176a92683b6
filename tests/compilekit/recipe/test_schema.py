"""What a recipe may say, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from compilekit.errors import Location, RecipeError
from compilekit.recipe import ModelSource, Recipe, StepEntry, Target, TensorSpec, Verify

GOOD = """\
compilekit: 1
name: sdxl-cuda-max
description: SDXL on one Hopper GPU, lowest latency
target: {device: cuda}
model:
  source: stabilityai/stable-diffusion-xl-base-1.0
  pipeline: StableDiffusionXLPipeline
  dtype: bfloat16
  components: {unet: latent-consistency/lcm-sdxl}
sample:
  prompt: Astronaut in a jungle, cold color palette
  height: 1024
  seed: 7
steps:
  - channels_last: {components: [unet, vae]}
  - qkv_fusion
  - tf32:
  - torchao_int8:  {components: unet, min_features: 512, budget: 1, allow_no_match: true}
verify: {max_relative_error: 0.03, min_psnr: 30}
shapes: [{height: 1024, width: 1024}, {height: 768, width: 1344}]
"""


NO_NAMES = ('"../../evil"', '"/tmp/evil"', '".hidden"', '"a b"', f'"{"a" * 50}/"', '"a\\n"', '"é"')
NO_NAME = (
    'is no plain file name: write up to 100 letters (a to z), digits, ".", "_" and "-", and no '
    '"." in front'
)
NO_COMPONENT = 'is not a component: write "unet", "vae.decode" or "transformer.blocks.0"'


def refused(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(text, file="r.yaml")
    return str(caught.value)


def refused_in(line: str) -> str:
    """The message for a line of a recipe that is otherwise right; the line is the third."""
    return refused(f"compilekit: 1\ntarget: {{device: cpu}}\n{line}\n")


def test_a_recipe_is_read_into_its_parts() -> None:
    recipe = Recipe.parse(GOOD)
    assert recipe == Recipe(
        compilekit=1,
        name="sdxl-cuda-max",
        description="SDXL on one Hopper GPU, lowest latency",
        target=Target(device="cuda"),
        model=ModelSource(
            source="stabilityai/stable-diffusion-xl-base-1.0",
            pipeline="StableDiffusionXLPipeline",
            dtype="bfloat16",
            components={"unet": "latent-consistency/lcm-sdxl"},
        ),
        sample={
            "prompt": "Astronaut in a jungle, cold color palette",
            "height": 1024,
            "seed": 7,
        },
        steps=(
            StepEntry(plugin="channels_last", components=("unet", "vae"), index=0),
            StepEntry(plugin="qkv_fusion", index=1),
            StepEntry(plugin="tf32", index=2),
            StepEntry(
                plugin="torchao_int8",
                components=("unet",),
                allow_no_match=True,
                budget=1.0,
                options={"min_features": 512},
                index=3,
            ),
        ),
        verify=Verify(max_relative_error=0.03, min_psnr=30.0),
        shapes=({"height": 1024, "width": 1024}, {"height": 768, "width": 1344}),
    )


def test_the_least_recipe_has_defaults() -> None:
    recipe = Recipe.parse("compilekit: 1\ntarget: {device: cpu}", file="some/serve.yaml")
    assert recipe == Recipe(compilekit=1, name="serve", target=Target(device="cpu"))
    assert (recipe.seed, recipe.sample_arguments, recipe.steps) == (0, {}, ())
    assert recipe.verify == Verify(reference="float32")


def test_text_without_a_file_is_named_recipe() -> None:
    assert Recipe.parse("compilekit: 1\ntarget: {device: cpu}").name == "recipe"


def test_the_seed_is_no_argument_of_the_sample() -> None:
    recipe = Recipe.parse(GOOD)
    assert recipe.seed == 7
    assert recipe.sample_arguments == {
        "prompt": "Astronaut in a jungle, cold color palette",
        "height": 1024,
    }


def test_a_plain_module_has_inputs() -> None:
    inputs = "x: {shape: [2, 3]}, t: {shape: [], dtype: int64, low: 0, high: 9}"
    recipe = Recipe.parse(
        f"compilekit: 1\ntarget: {{device: cpu}}\nsample: {{seed: 3}}\n"
        f"model: {{inputs: {{{inputs}}}}}"
    )
    assert recipe.model == ModelSource(
        inputs={
            "x": TensorSpec(shape=(2, 3)),
            "t": TensorSpec(shape=(), dtype="int64", low=0, high=9),
        }
    )


def test_equality_does_not_see_where_a_recipe_was_written() -> None:
    moved = Recipe.parse(f"# a comment\n\n{GOOD}", file="elsewhere.yaml")
    assert moved == Recipe.parse(GOOD)
    assert moved != Recipe.parse(GOOD.replace("seed: 7", "seed: 8"))
    assert moved.location("target") == Location("elsewhere.yaml", 6, 9)


def test_a_recipe_knows_where_it_says_something() -> None:
    recipe = Recipe.parse(GOOD, file="some/r.yaml")
    assert recipe.location("steps", 3, "torchao_int8", "min_features") == Location(
        "some/r.yaml", 18, 53
    )
    assert recipe.folder == Path("some")


def test_a_recipe_made_in_python_has_no_place_but_a_draft() -> None:
    recipe = Recipe(compilekit=1, target=Target(device="cpu"))
    assert recipe.location("target") == Location("<recipe>")
    assert recipe.folder == Path()
    assert (recipe.draft().recipe, recipe.draft().device) == (recipe, "cpu")


def test_a_recipe_is_written_as_yaml_that_reads_back() -> None:
    recipe = Recipe.parse(GOOD)
    assert (
        recipe.to_yaml()
        == """\
compilekit: 1
name: sdxl-cuda-max
description: "SDXL on one Hopper GPU, lowest latency"
target: {device: cuda}
model:
  source: stabilityai/stable-diffusion-xl-base-1.0
  pipeline: StableDiffusionXLPipeline
  dtype: bfloat16
  components: {unet: latent-consistency/lcm-sdxl}
sample:
  prompt: "Astronaut in a jungle, cold color palette"
  height: 1024
  seed: 7
steps:
  - channels_last: {components: [unet, vae]}
  - qkv_fusion
  - tf32
  - torchao_int8: {components: [unet], min_features: 512, allow_no_match: true, budget: 1.0}
verify: {max_relative_error: 0.03, min_psnr: 30.0}
shapes:
  - {height: 1024, width: 1024}
  - {height: 768, width: 1344}
"""
    )
    assert Recipe.parse(recipe.to_yaml()) == recipe


def test_every_problem_is_reported_at_once_in_file_order() -> None:
    assert (
        refused("""\
compilekit: 2
tagret: {device: cuda}
target: {device: cudaa}
model:
  revision: 12e5
  dtype: bf16
sample: {seed: -1}
steps:
  - channels_last: {components: [unet, vae, unet]}
  - qkv_fusion: {components: "unet!", budget: 0}
  - torchao_int8: {components: [unet, 3], allow_no_match: yes}
  - torch_compile:
    mode: max
verify: {max_relative_error: 0, min_psnr: "30", min_ssim: 2, refernce: x}
shapes: [{height: 1024, width: true}, {}]
""")
        == """\
r.yaml:1:13: compilekit: 2 is not a format that is known here; write 1
r.yaml:2:1: tagret: unknown key "tagret". Did you mean "target"?
r.yaml:3:18: target.device: "cudaa" is not one of cpu, cuda, hpu, neuron, mps, xpu. \
Did you mean "cuda"?
r.yaml:5:13: model.revision: 1200000.0 is not a string. Put it in quotes
r.yaml:6:10: model.dtype: "bf16" is not one of float32, bfloat16, float16. \
Did you mean "bfloat16"?
r.yaml:7:16: sample.seed: must be at least 0, not -1
r.yaml:9:45: steps[0].channels_last.components[2]: "unet" is named twice
r.yaml:10:30: steps[1].qkv_fusion.components: "unet!" is not a component: \
write "unet", "vae.decode" or "transformer.blocks.0"
r.yaml:10:47: steps[1].qkv_fusion.budget: must be greater than 0, not 0
r.yaml:11:39: steps[2].torchao_int8.components[1]: 3 is not a string. Put it in quotes
r.yaml:11:59: steps[2].torchao_int8.allow_no_match: "yes" is not true or false. \
YAML 1.2 reads it as a string: write true
r.yaml:12:5: steps[3]: a step has one key, its name, and this one has 2: torch_compile, mode. \
Indent the options under the name
r.yaml:14:30: verify.max_relative_error: must be greater than 0, not 0
r.yaml:14:43: verify.min_psnr: "30" is not a number. Write it without quotes
r.yaml:14:59: verify.min_ssim: must be at most 1, not 2
r.yaml:14:62: verify.refernce: unknown key "refernce". Did you mean "reference"?
r.yaml:15:32: shapes[0].width: true is not an integer
r.yaml:15:39: shapes[1]: must not be empty"""
    )


def test_what_is_required_and_missing_is_said() -> None:
    assert refused("name: x") == (
        "r.yaml:1:1: compilekit: required, and missing\nr.yaml:1:1: target: required, and missing"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("extend: x.yaml", '3:1: extend: unknown key "extend". Did you mean "extends"?'),
        (
            "zebra: 1",
            '3:1: zebra: unknown key "zebra". Known keys: compilekit, description, extends, model, '
            "name, sample, shapes, steps, target, tuned, verify",
        ),
        ('name: ""', "3:7: name: must not be empty"),
        *((f"name: {name}", f"3:7: name: {name} {NO_NAME}") for name in NO_NAMES),
        ("verify:", "3:1: verify: has no value; must be a mapping"),
        ("steps: torch_compile", '3:8: steps: "torch_compile" is not a list'),
        ("steps: [5]", "3:9: steps[0]: 5 is not a step: write its name"),
        ("steps: [{}]", "3:9: steps[0]: a mapping is not a step: write its name"),
        ('steps: [{"": {x: 1}}]', "3:9: steps[0]: a mapping is not a step: write its name"),
        ('steps: [""]', '3:9: steps[0]: "" is not a step: write its name'),
        ("steps: [{a: b}]", '3:13: steps[0].a: "b" is not a mapping of options'),
        (
            "steps: [{a: {components: []}}]",
            "3:26: steps[0].a.components: names no component: remove the key, or name one",
        ),
        (
            "steps: [{a: {components: }}]",
            "3:14: steps[0].a.components: names no component: remove the key, or name one",
        ),
        (
            "steps: [{a: {components: 5}}]",
            "3:26: steps[0].a.components: 5 is not a component's name, or a list of them",
        ),
        (
            "steps: [{a: {components: [vae..decode]}}]",
            f'3:27: steps[0].a.components[0]: "vae..decode" {NO_COMPONENT}',
        ),
        (
            "steps: [{a: {budget: .inf}}]",
            "3:22: steps[0].a.budget: must be a finite number, not .inf",
        ),
        ("sample: [prompt]", "3:9: sample: a list is not a mapping"),
        ("sample: {seed: true}", "3:16: sample.seed: true is not an integer"),
        (
            "model: {components: {u-net: x}}",
            f'3:22: model.components.u-net: "u-net" {NO_COMPONENT}',
        ),
        (
            "model: {inputs: {x: {shape: [2, 0]}}}",
            "3:33: model.inputs.x.shape[1]: must be at least 1, not 0",
        ),
        (
            "model: {inputs: {x: {}}}",
            "3:21: model.inputs.x.shape: required, and missing",
        ),
        (
            "model: {inputs: {x: {shape: [2], dtpye: int64}}}",
            '3:34: model.inputs.x.dtpye: unknown key "dtpye". Did you mean "dtype"?',
        ),
        (
            "model: {inputs: {x: {shape: [2], high: 3}}}",
            "3:40: model.inputs.x.high: only an integer input has a range, and this one is float32",
        ),
        (
            "model: {inputs: {x: {shape: [2], dtype: int64, low: 3, high: 3}}}",
            "3:62: model.inputs.x.high: must be greater than low (3), not 3",
        ),
        ("shapes: [{height: 0}]", "3:19: shapes[0].height: must be at least 1, not 0"),
    ],
)
def test_a_wrong_line_is_refused_in_one_sentence(line: str, message: str) -> None:
    assert refused_in(line) == f"r.yaml:{message}"


@pytest.mark.parametrize(
    ("file", "name"),
    [("my recipe (1).yaml", "my-recipe-1"), ("...yaml", "recipe"), ("é" * 300 + ".yaml", "recipe")],
)
def test_a_recipe_without_a_name_has_its_file_s_as_far_as_it_is_one(file: str, name: str) -> None:
    assert Recipe.parse("compilekit: 1\ntarget: {device: cpu}", file=file).name == name


def test_inputs_and_a_sample_exclude_each_other() -> None:
    line = "sample: {seed: 1, prompt: a}\nmodel: {inputs: {x: {shape: [1]}}}"
    assert refused_in(line) == (
        "r.yaml:3:27: sample.prompt: a model with inputs takes no sample: remove one of the two"
    )


@pytest.mark.parametrize("value", ["true", '"1"', "1.0", "0"])
def test_the_format_is_the_integer_one(value: str) -> None:
    message = refused(f"compilekit: {value}\ntarget: {{device: cpu}}")
    assert message.startswith("r.yaml:1:13: compilekit: ")


def test_from_steps_makes_a_recipe() -> None:
    recipe = Recipe.from_steps(
        "channels_last, torch_compile{components=[unet]}", device="cuda", sample={"prompt": "a"}
    )
    assert (
        recipe.to_yaml()
        == """\
compilekit: 1
name: steps
target: {device: cuda}
sample:
  prompt: a
steps:
  - channels_last
  - torch_compile: {components: [unet]}
"""
    )
    assert recipe.location("steps", 1, "torch_compile", "components", 0) == Location(
        "<steps>", 1, 42
    )


def test_a_recipe_is_loaded_from_a_file_and_extends_another(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("compilekit: 1\ntarget: {device: cpuu}\n")
    child = tmp_path / "child.yaml"
    child.write_text("extends: base.yaml\nverify: {min_ssim: x}\n")
    with pytest.raises(RecipeError) as caught:
        Recipe.load(child)
    assert str(caught.value).replace(f"{tmp_path}/", "") == (
        'base.yaml:2:18: target.device: "cpuu" is not one of cpu, cuda, hpu, neuron, mps, xpu. '
        'Did you mean "cpu"?\n'
        'child.yaml:2:20: verify.min_ssim: "x" is not a number'
    )
    child.write_text("extends: base.yaml\ntarget: {device: cpu}\n")
    assert Recipe.load(str(child)).target == Target(device="cpu")
