"""Which calls share a part, and which entry points do."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import torch
from support import EXPORTER, RESNET, SAMPLE, Twice, draw
from torch import nn

import compilekit as ck
from compilekit.build import export
from compilekit.testing import tiny_pipeline


def recipe_of(text: str) -> ck.Recipe:
    return ck.Recipe.parse(f"compilekit: 1\ntarget: {{device: cpu}}\n{text}")


BLOCK = f"""
sample: {json.dumps(SAMPLE)}
shapes: [{{batch: 2}}, {{height: 96, width: 32}}, {{height: 96, width: 32, batch: 2}}]
steps: [{{eager_export: {{components: [unet], modules: [mid_block], sizes: KIND}}}}]
"""
SIZES = BLOCK.replace("mid_block", "mid_block.resnets.0")


def test_batches_share_a_part_and_other_sizes_get_their_own(build, tmp_path, load):
    built = build(recipe_of(BLOCK.replace("KIND", "batch")))
    assert [str(part.signature).split(", temb")[0] for part in built.manifest.parts] == [
        "hidden_states: float32[1..4, 64, 8, 8]",
        "hidden_states: float32[1..4, 64, 24, 8]",
    ]
    pipeline, eager = load(tmp_path / "made"), tiny_pipeline("sd")
    for size in ({}, {"height": 96}):
        for prompt in ("a cat", ["a cat", "a dog"]):
            drawn = draw(pipeline, prompt=prompt, **size)
            assert abs(drawn - draw(eager, prompt=prompt, **size)).max() < 1e-5
    with pytest.raises(ck.UncoveredCallError, match=r"hidden_states is float32\[2, 64, 32, 8\]"):
        draw(pipeline, height=128)
    with pytest.raises(ck.UncoveredCallError, match=r"hidden_states is float32\[6, 64, 8, 8\]"):
        draw(pipeline, prompt=["a", "b", "c"])


def test_where_sizes_are_fixed_each_gets_a_part(build):
    built = build(recipe_of(SIZES.replace("KIND", "fixed")))
    sizes = [str(part.signature).split(", temb")[0] for part in built.manifest.parts]
    batches = [f"input_tensor: float32[{b}, 64, {h}, 8]" for h in (8, 24) for b in (1, 2, 4)]
    assert sorted(sizes) == sorted(batches)


def test_where_any_size_may_be_symbolic_one_part_serves_all(build):
    built = build(recipe_of(SIZES.replace("KIND", "any")))
    sizes = [str(part.signature).split(", temb")[0] for part in built.manifest.parts]
    assert sizes == ["input_tensor: float32[1..4, 64, 8..24, 8]"]


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
    with pytest.raises(ck.RecipeError, match=r'height: of a plain module only "batch" can change'):
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


def test_a_size_that_the_code_fixes_is_compiled_apart(write, tmp_path):
    refusal = "    if any(context.symbols):\n        raise ck.SymbolicShapeError('fixed')\n"
    text = EXPORTER.read_text().replace("    dims = tuple(", f"{refusal}    dims = tuple(")
    host = ck.load_host([write("eager_export.py", text)])
    recipe = ck.Recipe.from_steps(RESNET, sample=SAMPLE)
    built = ck.build(recipe, tiny_pipeline("sd"), tmp_path / "made", host=host, progress=False)
    sizes = [str(part.signature).split(", temb")[0] for part in built.manifest.parts]
    assert sizes == [
        "input_tensor: float32[2, 64, 8, 8]",
        "input_tensor: float32[1, 64, 8, 8]",
    ]


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
    from compilekit.build.alike import likeness
    from compilekit.model import Model

    model = Model(Blocks(*settings), inputs={"x": torch.ones(1, 8)})
    entries = [model.entry_point(f"model.blocks.{index}") for index in range(2)]
    assert len({likeness(entry) for entry in entries}) == parts


def test_every_block_is_compared_with_its_own_python(build, monkeypatch):
    monkeypatch.setattr(export, "likeness", lambda entry: "the same")
    steps = (
        "eager_export{components=transformer, modules=[transformer_blocks.0, transformer_blocks.1]}"
    )
    pipeline = tiny_pipeline("flux")
    odd = pipeline.transformer.transformer_blocks[1].ff
    odd.register_forward_hook(lambda module, args, output: 1.5 * output)
    with pytest.raises(ck.VerificationError, match=r"transformer_blocks\.1: compiled for .* away"):
        build(ck.Recipe.from_steps(steps, sample=SAMPLE), pipeline)
