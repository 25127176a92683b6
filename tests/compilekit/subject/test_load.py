"""What is passed as a model and its inputs, and is neither."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

import compilekit as ck
from compilekit.model import Model
from compilekit.subject.sample import module_inputs

CAST = ck.Recipe.from_steps("precision{dtype=bfloat16}")
X = torch.ones(2, 8)


def apply(net: Any, inputs: Any, recipe: ck.Recipe = CAST) -> Any:
    return ck.apply(recipe, net, inputs=inputs, progress=False)


@pytest.mark.parametrize("inputs", [[X], X, {1: X}, "x"], ids=["list", "tensor", "key", "text"])
def test_inputs_that_are_no_dict_of_names_are_refused(inputs):
    with pytest.raises(ck.UsageError, match="inputs= is a dict of the names of arguments and"):
        apply(nn.Linear(8, 8), inputs)


def test_inputs_without_values_are_refused():
    with pytest.raises(ck.UsageError, match="inputs: input is on the meta device, so it holds no"):
        apply(nn.Linear(8, 8), {"input": X.to("meta")})
    with pytest.raises(ck.UsageError, match=r"inputs: input \[0, 8\]: no input holds an element"):
        apply(nn.Linear(8, 8), {"input": torch.ones(0, 8)})


class Sliced(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[:0]


def test_a_model_whose_output_is_empty_is_not_called_verified():
    said = (
        r"the model as loaded: model: there is nothing to compare: the output holds 1 tensor "
        r"\(output \(0, 8\)\), all without elements"
    )
    with pytest.raises(ck.StepError, match=said):
        apply(Sliced(8, 8), {"x": X})


class OnMeta(nn.Linear):
    def __init__(self) -> None:
        super().__init__(8, 8)
        self.register_buffer("scale", torch.ones(8, device="meta"))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda: nn.LazyLinear(8), "model.weight has no shape yet: call the module once, then"),
        (
            lambda: torch.jit.script(nn.Linear(8, 8)),
            "model is a RecursiveScriptModule, which holds",
        ),
        (
            lambda: torch.jit.trace(nn.Linear(8, 8), X),
            "model is a TopLevelTracedModule, which hold",
        ),
        (lambda: nn.Linear(8, 8, device="meta"), "are not in memory: they are on the meta device"),
        (OnMeta, "the model's weights are not in memory: they are on the meta device"),
    ],
    ids=["lazy", "scripted", "traced", "meta", "meta buffer"],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_a_module_that_no_step_can_work_on_is_refused(net, message):
    with pytest.raises(ck.ModelError, match=message):
        apply(net(), {"input": X})


@pytest.mark.parametrize("shape", [[10**13, 8], [10**30], [2**62, 2**62]])
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_an_input_that_fits_nowhere_is_named_with_its_place(shape, dtype):
    text = f"""
compilekit: 1
target: {{device: cpu}}
model: {{inputs: {{input: {{shape: {shape}, dtype: {dtype}}}}}}}
steps: [precision: {{dtype: bfloat16}}]
"""
    with pytest.raises(
        ck.RecipeError,
        match=r"<recipe>:4:\d+: model.inputs.input: no tensor of .* can be made here: \w+Error: ",
    ):
        module_inputs(ck.Recipe.parse(text))


def test_what_came_out_of_a_bundle_is_refused_at_once(pristine, load):
    pipeline = load(pristine)
    for verb in (ck.apply, ck.explain):
        with pytest.raises(
            ck.UsageError, match=r"was loaded from the bundle .*: pass the original model"
        ):
            verb(CAST, pipeline, progress=False)
    with pytest.raises(ck.UsageError, match="this StableDiffusionPipeline was loaded from the"):
        ck.build(CAST, lambda: pipeline, pristine.with_name("new"), progress=False)
    with pytest.raises(ck.UsageError, match="this UNet2DConditionModel was loaded from the bundle"):
        apply(pipeline.unet, {"input": X})
    with pytest.raises(ck.ModelError, match="is a bundle, which is compiled already"):
        ck.apply(CAST, pristine, progress=False)


def test_an_index_that_names_no_class_is_refused(tmp_path):
    index = {"_class_name": "StableDiffusionPipeline", "unet": [], "vae": ["diffusers", "X"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ck.ModelError, match=r"model_index.json: unet is an empty list: write its"):
        ck.apply(CAST, tmp_path, progress=False)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_module_beside_others_is_refused_where_it_is_named():
    net = nn.Sequential(torch.jit.script(nn.Linear(8, 8)), nn.Linear(8, 8))
    model = Model(net, {"input": X})
    assert model.entry_point("model.1").owner is net[1]
    with pytest.raises(
        ck.ModelError, match=r"model.0 is a RecursiveScriptModule, which holds no P"
    ):
        model.entry_point("model.0")


def test_inputs_of_other_names_than_a_forward_has_are_refused():
    said = r"^Linear takes input: .*, and the inputs are x: got an unexpected keyword argument 'x'"
    with pytest.raises(ck.ModelError, match=said):
        apply(nn.Linear(8, 8), {"x": X})


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_a_nested_tensor_is_refused():
    ragged = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    with pytest.raises(ck.UsageError, match="inputs: input is a nested tensor, which has no shape"):
        apply(nn.Linear(8, 8), {"input": ragged})


def test_an_exported_module_without_names_is_told_apart():
    net = torch.export.export(nn.Linear(8, 8), (X,)).module()
    with pytest.raises(ck.ModelError, match=r"A module from torch.export takes its inputs"):
        apply(net, {"input": X})


def test_weights_made_under_inference_mode_are_refused():
    with torch.inference_mode():
        net = nn.Linear(8, 8)
    with pytest.raises(ck.ModelError, match=r"model.weight was made under torch.inference_mode"):
        apply(net, {"input": X})
