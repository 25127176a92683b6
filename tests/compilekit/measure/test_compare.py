import math
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from transformers.modeling_outputs import BaseModelOutput

from compilekit.errors import StepError
from compilekit.measure.compare import Difference, compare, merge, tensors_of

ONE = torch.ones(2)


def names_of(value: object) -> list[str]:
    return [name for name, _ in tensors_of(value)]


def test_a_bare_tensor_is_named_output() -> None:
    assert names_of(ONE) == ["output"]


def test_nested_containers_give_paths_in_order() -> None:
    assert names_of({"a": (ONE, [ONE]), "b": ONE, "c": None, "d": 3}) == ["a.0", "a.1.0", "b"]


def test_named_tuples_count_their_fields() -> None:
    class Pair(NamedTuple):
        left: torch.Tensor
        right: torch.Tensor

    assert names_of(Pair(ONE, ONE)) == ["0", "1"]


def test_a_model_output_of_diffusers_names_its_fields() -> None:
    assert names_of(UNet2DConditionOutput(sample=ONE)) == ["sample"]


def test_a_model_output_of_transformers_leaves_out_what_is_none() -> None:
    output = BaseModelOutput(last_hidden_state=ONE, hidden_states=(ONE, ONE))
    assert names_of(output) == ["last_hidden_state", "hidden_states.0", "hidden_states.1"]


def test_a_dataclass_with_slots_names_its_fields() -> None:
    @dataclass(slots=True)
    class Out:
        sample: torch.Tensor

    assert names_of(Out(ONE)) == ["sample"]


def test_the_attributes_of_an_unknown_object_are_found() -> None:
    found = names_of({"latent_dist": DiagonalGaussianDistribution(torch.zeros(1, 2, 1, 1))})
    assert "latent_dist.mean" in found
    assert "latent_dist.std" in found


def test_an_object_that_refers_to_itself_ends() -> None:
    class Node:
        pass

    node = Node()
    node.value, node.parent, node.all = ONE, node, [node]
    assert names_of(node) == ["value"]


def test_objects_are_searched_three_deep() -> None:
    class Box:
        def __init__(self, inside: object) -> None:
            self.box = inside

    assert names_of(Box(Box(Box(ONE)))) == ["box.box.box"]
    assert names_of(Box(Box(Box(Box(ONE))))) == []


def test_one_tensor_in_two_places_is_found_twice() -> None:
    assert names_of((ONE, ONE)) == ["0", "1"]


def test_a_module_in_an_output_is_not_part_of_it() -> None:
    assert names_of({"model": torch.nn.Linear(1, 1), "sample": ONE}) == ["sample"]


def test_equal_outputs_do_not_differ() -> None:
    assert compare(ONE, ONE) == Difference(0.0, 1.0, 0.0, finite=True, where="output")


def test_the_figures_of_a_known_case() -> None:
    found = compare(torch.tensor([3.0, 5.0]), torch.tensor([3.0, 4.0]))
    assert found.relative_l2 == pytest.approx(1 / 5)
    assert found.cosine == pytest.approx(29 / (5 * math.sqrt(34)))
    assert found.max_abs == 1.0


def test_the_worst_tensor_speaks_for_all() -> None:
    reference = {"large": torch.full((1000,), 100.0), "small": torch.ones(1)}
    actual = {"large": torch.full((1000,), 101.0), "small": torch.full((1,), 1.5)}
    assert compare(actual, reference) == Difference(0.5, 1.0, 0.5, finite=True, where="small")


def test_tensors_are_paired_by_name_where_names_agree() -> None:
    found = compare({"a": ONE, "b": 2 * ONE}, {"b": 2 * ONE, "a": ONE})
    assert found.relative_l2 == 0


def test_equal_names_of_two_tensors_do_not_hide_one() -> None:
    reference = {"a": {"b": ONE}, "a.b": 5 * ONE}
    assert compare({"a": {"b": 2 * ONE}, "a.b": 5 * ONE}, reference).relative_l2 == 1.0


def test_a_tuple_is_paired_with_a_model_output_by_order() -> None:
    found = compare((2 * ONE,), UNet2DConditionOutput(sample=ONE))
    assert (found.relative_l2, found.where) == (1.0, "sample")


def test_rounding_of_a_low_precision_is_seen_in_full() -> None:
    reference = torch.tensor([1.0, 1 + 2**-20], dtype=torch.float64)
    assert compare(reference.bfloat16(), reference).max_abs == 2**-20


def test_float64_outputs_are_compared_in_full() -> None:
    reference = torch.ones(3, dtype=torch.float64)
    assert compare(reference + 1e-12, reference).relative_l2 == pytest.approx(
        1e-12, rel=1e-3, abs=0
    )


def test_a_large_float16_tensor_does_not_overflow() -> None:
    large = torch.full((4096,), 60000.0, dtype=torch.float16)
    found = compare(large, large.float() * 2)
    assert found.relative_l2 == pytest.approx(0.5)


def test_layouts_do_not_matter() -> None:
    image = torch.randn(2, 3, 4, 5)
    assert compare(image.to(memory_format=torch.channels_last), image).relative_l2 == 0


def test_more_elements_than_fit_one_chunk_are_all_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compilekit.measure.compare._CHUNK", 7)
    reference = torch.randn(40, dtype=torch.float64)
    actual = reference.clone()
    actual[-1] += 1
    assert compare(actual, reference).relative_l2 == pytest.approx(1 / reference.norm().item())


def test_any_change_from_an_all_zero_reference_is_infinite() -> None:
    assert compare(ONE, torch.zeros(2)) == Difference(math.inf, 0.0, 1.0, True, "output")


def test_zeros_equal_zeros() -> None:
    assert compare(torch.zeros(2), torch.zeros(2)) == Difference(0.0, 1.0, 0.0, True, "output")


def test_an_output_that_fell_to_zero_is_wrong_as_a_whole() -> None:
    assert compare(torch.zeros(2), ONE) == Difference(1.0, 0.0, 1.0, True, "output")


def test_an_empty_tensor_beside_others_is_equal() -> None:
    empty = torch.zeros(0, 4)
    assert compare((empty, ONE), (empty, ONE)).relative_l2 == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("swap", [False, True])
def test_nan_or_infinity_on_either_side_is_not_finite(bad: float, swap: bool) -> None:
    good, spoilt = torch.ones(3), torch.tensor([1.0, bad, 1.0])
    pair = (good, spoilt) if swap else (spoilt, good)
    found = compare({"x": ONE, "y": pair[0]}, {"x": 100 * ONE, "y": pair[1]})
    assert found == Difference(math.inf, 0.0, math.inf, finite=False, where="y")


def test_integers_count_the_elements_that_differ() -> None:
    found = compare(torch.tensor([1, 2, 3, 9]), torch.tensor([1, 2, 3, 4]))
    assert found == Difference(0.25, 0.75, 5.0, finite=True, where="output")


def test_booleans_count_the_elements_that_differ() -> None:
    found = compare(torch.tensor([True, False]), torch.tensor([True, True]))
    assert found == Difference(0.5, 0.5, 1.0, finite=True, where="output")


def test_complex_tensors_are_compared_in_both_parts() -> None:
    assert compare(torch.tensor([3 + 5j]), torch.tensor([3 + 4j])).relative_l2 == pytest.approx(0.2)


def test_other_shapes_are_an_error_that_names_both() -> None:
    with pytest.raises(StepError) as error:
        compare({"sample": torch.ones(1, 4)}, {"sample": torch.ones(1, 8)})
    assert str(error.value) == "sample: the output's shape is (1, 4), and the reference's (1, 8)"


def test_another_count_is_an_error_that_names_all_shapes() -> None:
    with pytest.raises(StepError) as error:
        compare((ONE,), (ONE, torch.ones(3)))
    assert str(error.value) == (
        "the output holds 1 tensor (0 (2,)), and the reference 2 tensors (0 (2,), 1 (3,)): "
        "they must hold the same tensors"
    )


def test_a_complex_tensor_in_place_of_a_real_one_is_an_error() -> None:
    with pytest.raises(StepError, match=r"dtype is torch.complex64, and the reference's torch.fl"):
        compare(torch.tensor([1j]), torch.tensor([1.0]))


def test_outputs_without_tensors_cannot_be_compared() -> None:
    with pytest.raises(StepError, match="there is nothing to compare"):
        compare(None, {})


def test_outputs_without_elements_cannot_be_compared() -> None:
    empty = torch.zeros(0, 4)
    with pytest.raises(StepError, match=r"nothing to compare: the output holds 2 tensors \(0 "):
        compare((empty, empty), (empty, empty))


def test_merge_takes_the_largest_error() -> None:
    small = Difference(0.1, 1.0, 9.0, finite=True, where="a")
    large = Difference(0.2, 1.0, 1.0, finite=True, where="b")
    assert merge([small, large]) == large


def test_merge_takes_a_non_finite_one_before_an_infinite_error() -> None:
    infinite = Difference(math.inf, 0.0, 1.0, finite=True, where="a")
    spoilt = Difference(math.inf, 0.0, math.inf, finite=False, where="b")
    assert merge([infinite, spoilt]) == spoilt
