"""Calls are flattened and bound, results taken apart and put together again."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKLOutput
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from hypothesis import given
from hypothesis import strategies as st

import compilekit as ck
from compilekit.bundle.calls import (
    Binder,
    Rebuilder,
    dense,
    is_plain,
    key_of,
    laid_out,
    leaves,
    order_of,
    parameters_of,
    signature_of,
    template,
    tensors_in,
)
from compilekit.bundle.manifest import Output
from compilekit.bundle.signature import Constant


def test_leaves_have_dotted_paths_and_empty_containers_count():
    x, y = torch.zeros(1), torch.ones(1)
    call = {"a": x, "b": {"c": [y, 2]}, "d": None, "e": {}, "f": (), "g": []}
    assert leaves(call) == {
        "a": x, "b.c.0": y, "b.c.1": 2, "d": None, "e": {}, "f": (), "g": [],
    }  # fmt: skip


def test_a_signature_tells_tensors_constants_and_the_rest():
    generator = torch.Generator()
    found = signature_of(leaves({"x": torch.zeros(2, 3), "n": 4, "d": {}, "generator": generator}))
    assert [str(tensor) for tensor in found.tensors] == ["x: float32[2, 3]"]
    assert found.constants == (Constant(path="n", value=4), Constant(path="d", empty="dict"))
    assert found.ignored == ("generator",)


def test_an_argument_that_a_bundle_cannot_hold_is_named():
    call = {"x": torch.zeros(2), "rotary": [torch.zeros(2, dtype=torch.complex128)]}
    with pytest.raises(ck.StepError, match=r"^the argument rotary.0 is complex128, which a bundle"):
        signature_of(leaves(call))


@pytest.mark.parametrize(
    "change",
    [
        {"x": torch.zeros(2, 4)},
        {"x": torch.zeros(2, 3, dtype=torch.bfloat16)},
        {"n": 5},
        {"n": 4.0},
        {"n": True},
        {"more": 1},
    ],
)
def test_calls_that_differ_have_different_keys(change):
    call = {"x": torch.zeros(2, 3), "n": 4}
    assert key_of(leaves(call)) == key_of(leaves({"x": torch.ones(2, 3), "n": 4}))
    assert key_of(leaves(call)) != key_of(leaves({**call, **change}))


def function(sample, timestep, labels=None, return_dict=True, **kwargs):
    """Has the parameters that a denoiser has."""


def binder(callable_: Any = function) -> Binder:
    parameters, takes_any = parameters_of(callable_)
    return Binder("unet", parameters, takes_any=takes_any)


def test_arguments_get_their_names_and_defaults_in_one_order():
    wanted = {"sample": 1, "timestep": 2, "labels": None, "return_dict": True, "a": 4, "b": 3}
    bound = binder().bind((1,), {"b": 3, "a": 4, "timestep": 2})
    assert list(bound.items()) == list(wanted.items())


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((1, 2, 3, 4, 5), {}, "unet takes 4 arguments, not 5: a bundle keeps none beyond"),
        ((1,), {"sample": 2, "timestep": 1}, "unet got two values for sample"),
        ((1,), {}, "unet needs the argument timestep"),
    ],
)
def test_a_call_that_python_would_refuse_is_refused(args, kwargs, message):
    with pytest.raises(TypeError, match=message):
        binder().bind(args, kwargs)


def test_a_keyword_that_the_function_lacks_is_refused():
    with pytest.raises(TypeError, match="unet takes no argument b"):
        binder(lambda a: a).bind((1,), {"b": 2})


def shapes() -> st.SearchStrategy[Any]:
    scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3)
    tensors = st.integers(1, 4).map(lambda size: torch.arange(float(size)))
    return st.recursive(
        scalars | tensors,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3)
        ),
        max_leaves=8,
    )


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@given(shapes())
def test_any_nesting_is_put_together_as_it_was(value):
    found: list[torch.Tensor] = []
    written = template(value, found).model_dump_json()
    assert same(Rebuilder(Output.model_validate_json(written))(found), value)


def test_outputs_of_diffusers_are_put_together_again():
    sample = torch.ones(2, 3)
    found: list[torch.Tensor] = []
    made = Rebuilder(template(UNet2DConditionOutput(sample=sample), found))([sample + 1])
    assert isinstance(made, UNet2DConditionOutput)
    assert torch.equal(made.sample, sample + 1)


def test_a_distribution_is_made_anew_from_its_parameters():
    parameters = torch.randn(1, 8, 2, 2)
    output = AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(parameters))
    found: list[torch.Tensor] = []
    made = Rebuilder(template(output, found))(found)
    assert len(found) == 1
    assert torch.equal(made.latent_dist.mean, output.latent_dist.mean)
    assert torch.equal(made.latent_dist.std, output.latent_dist.std)


def test_an_object_that_keeps_not_what_it_was_made_from_is_refused():
    class Odd:
        def __init__(self, given: int) -> None:
            self.other = given

    with pytest.raises(ck.StepError, match="a result of class Odd cannot be put together"):
        tensors_in(Odd(1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("subprocess:Popen", "only classes of diffusers and transformers"),
        ("diffusers.nosuch:Thing", "which is not here"),
        ("diffusers.models.unets.unet_2d_condition:logger", "which is no class here"),
    ],
)
def test_a_bundle_names_no_class_but_those_that_are_trusted(name, message):
    with pytest.raises(ck.BundleError, match=message):
        Rebuilder(Output(kind="object", class_name=name))


@pytest.mark.parametrize(
    ("tensor", "order"),
    [
        (torch.zeros(2, 3, 4), (0, 1, 2)),
        (torch.zeros(4, 3).t(), (1, 0)),
        (torch.zeros(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), (0, 2, 3, 1)),
        (torch.zeros(1).expand(4), (0,)),
        (torch.zeros(()), ()),
        (torch.zeros(3, 1, 2).transpose(0, 1), (0, 1, 2)),
    ],
    ids=["plain", "transposed", "channels last", "expanded", "scalar", "size 1"],
)
def test_the_order_of_dimensions_is_read_from_strides(tensor, order):
    assert order_of(tensor) == order


@given(st.permutations(range(4)), st.permutations(range(4)))
def test_any_layout_becomes_any_other_with_the_same_values(has, wants):
    tensor = torch.arange(120).reshape(2, 3, 4, 5).permute(has).contiguous()
    tensor = tensor.permute(wants)
    laid = laid_out(tensor, has)
    assert torch.equal(laid, tensor)
    assert laid.stride() == dense(tensor.shape, has)


def test_what_lies_right_already_is_not_copied():
    tensor = torch.zeros(2, 3)
    assert laid_out(tensor, (0, 1)) is tensor


def test_an_expanded_tensor_is_written_out():
    expanded = torch.arange(3.0).reshape(3, 1).expand(3, 2)
    laid = laid_out(expanded, (0, 1))
    assert laid.stride() == (2, 1)
    assert torch.equal(laid, expanded)


def test_an_ordered_dict_and_a_size_count_as_what_they_are_like():
    assert leaves(OrderedDict(a=1, b=torch.Size([2, 3]))) == {"a": 1, "b.0": 2, "b.1": 3}


class Pair(NamedTuple):
    first: Any
    second: Any


def test_containers_of_other_classes_are_not_looked_into():
    pair = Pair(torch.zeros(1), torch.ones(1))
    assert leaves({"p": pair}) == {"p": pair}
    assert signature_of(leaves({"p": pair})).ignored == ("p",)


def test_only_plain_tensors_count_as_tensors():
    from compilekit.load.placeholder import Placeholder

    cpu = torch.device("cpu")
    odd = {
        "placeholder": Placeholder.like((2,), torch.float32, cpu, "packed"),
        "sparse": torch.eye(2).to_sparse(),
    }
    assert signature_of(leaves(odd)).ignored == ("placeholder", "sparse")
    assert is_plain(torch.nn.Parameter(torch.zeros(1)))
