"""Tensors come back as they were: values, strides, ties; mapped, and not copied."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from torch import nn

import compilekit as ck
from compilekit.bundle import constants
from compilekit.bundle.manifest import Component
from compilekit.load.placeholder import Placeholder
from compilekit.load.skeleton import fill

CPU = torch.device("cpu")


def component(held: list[constants.Held]) -> Component:
    return Component(
        name="net",
        library="",
        class_name="Net",
        whole=True,
        constants="constants/net.safetensors",
        tensors=tuple(each.row for each in held),
    )


def stored(held: list[constants.Held]) -> dict[str, torch.Tensor]:
    return {each.row.name: each.tensor for each in held if each.row.key == each.row.name}


def back(held: list[constants.Held], path) -> dict[str, torch.Tensor]:
    constants.save(stored(held), path)
    read = constants.read(path, CPU)
    return {h.row.name: constants.shaped(h.row, read, "net") for h in held if h.row.key}


class Net(nn.Module):
    """Has a tensor of every kind that modules keep."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)
        self.low = nn.Linear(3, 7).to(torch.bfloat16)
        self.tied = nn.Linear(3, 7)
        self.again = self.tied
        self.alias = nn.Linear(3, 7)
        self.alias.weight = self.tied.weight
        self.register_buffer("counted", torch.tensor(5))
        self.register_buffer("unsaved", torch.arange(3), persistent=False)
        self.table = torch.arange(6.0).reshape(2, 3).t()
        self.empty = nn.Parameter(torch.zeros(0, 4))
        self.flags = torch.tensor([True, False])


def test_every_tensor_comes_back_with_its_values_and_strides(tmp_path):
    torch.manual_seed(0)
    net = Net()
    held = constants.held_by(net)
    read = back(held, tmp_path / "net.safetensors")
    for each in held:
        tensor = read[each.row.name]
        assert torch.equal(tensor, each.tensor), each.row.name
        assert tensor.dtype == each.tensor.dtype
        assert tensor.stride() == each.tensor.stride(), each.row.name


def test_tied_tensors_are_stored_once_and_tied_again(tmp_path):
    net = Net()
    held = constants.held_by(net)
    keys = {each.row.name: each.row.key for each in held}
    assert keys["tied.weight"] == keys["again.weight"] == keys["alias.weight"]
    made = nn.Module()
    fill(made, component(held), back(held, tmp_path / "net.safetensors"), CPU)
    assert made.get_submodule("tied").weight is made.get_submodule("alias").weight
    assert made.get_submodule("tied").bias is not made.get_submodule("alias").bias


def test_a_filled_module_has_each_tensor_as_the_kind_that_it_was(tmp_path):
    held = constants.held_by(Net())
    made = nn.Module()
    fill(made, component(held), back(held, tmp_path / "net.safetensors"), CPU)
    assert sorted(dict(made.named_buffers())) == ["counted", "unsaved"]
    assert "unsaved" not in made.state_dict()
    assert torch.equal(vars(made)["table"], torch.arange(6.0).reshape(2, 3).t())
    assert not any(parameter.requires_grad for parameter in made.parameters())


def test_the_file_is_a_plain_safetensors_file_with_aligned_tensors(tmp_path):
    path = tmp_path / "a.safetensors"
    constants.save({"a": torch.ones(3), "b": torch.ones(5, dtype=torch.int8)}, path)
    with safe_open(path, framework="pt") as file:
        assert torch.equal(file.get_tensor("a"), torch.ones(3))
    read = constants.read(path, CPU)
    assert sorted(read) == ["a", "b"]
    assert all(tensor.data_ptr() % constants.ALIGNMENT == 0 for tensor in read.values())


def test_reading_maps_the_file_and_writing_does_not_reach_it(tmp_path):
    path = tmp_path / "a.safetensors"
    constants.save({"a": torch.zeros(4)}, path)
    before = path.read_bytes()
    constants.read(path, CPU)["a"].fill_(1)
    assert path.read_bytes() == before
    maps = "/proc/self/maps"
    kept = constants.read(path, CPU)
    with open(maps, encoding="utf-8") as file:  # noqa: PTH123
        assert str(path) in file.read()
    assert torch.equal(kept["a"], torch.zeros(4))


def test_one_value_that_was_expanded_is_written(tmp_path):
    constants.save({"timestep": torch.tensor(7.0).expand(1)}, tmp_path / "one.safetensors")
    read = constants.read(tmp_path / "one.safetensors", CPU)
    assert read["timestep"].tolist() == [7.0]


def test_a_dtype_that_no_file_can_hold_is_an_error(tmp_path):
    with pytest.raises(ck.BundleError, match="a is complex128, which safetensors cannot hold"):
        constants.save({"a": torch.zeros(1, dtype=torch.complex128)}, tmp_path / "a.safetensors")


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\xff" * 8 + b"{}", b"{}"])
def test_what_is_no_safetensors_file_is_refused(content, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ck.BundleError, match="is no safetensors file"):
        constants.read(path, CPU)


def test_a_manifest_and_a_file_that_disagree_are_refused(tmp_path):
    held = constants.held_by(nn.Linear(2, 3))
    row = held[0].row
    wrong = row.model_copy(update={"shape": (3, 3)})
    with pytest.raises(ck.BundleError, match=r"weight: its file has float32\[3, 2\], and the"):
        constants.shaped(wrong, {"weight": torch.zeros(3, 2)}, "net")
    with pytest.raises(ck.BundleError, match="weight: its file has no weight"):
        constants.shaped(row, {}, "net")


def test_a_quantised_weight_is_kept_as_the_tensors_that_it_consists_of():
    torchao = pytest.importorskip("torchao.quantization")
    net = nn.Sequential(nn.Linear(64, 64))
    torchao.quantize_(net, torchao.Int8WeightOnlyConfig(set_inductor_config=False))
    rows = {each.row.name: each.row for each in constants.held_by(net)}
    outer = rows["0.weight"]
    assert outer.key is None
    assert outer.shape == (64, 64)
    assert set(outer.inner) == {name for name, row in rows.items() if row.kind == "inner"}
    assert all(rows[name].key == name for name in outer.inner)


def test_a_placeholder_has_a_shape_and_no_values():
    made = nn.Parameter(
        Placeholder.like((2, 3), torch.bfloat16, CPU, "packed"), requires_grad=False
    )
    assert (made.shape, made.dtype, made.device) == ((2, 3), torch.bfloat16, CPU)
    assert made.to(torch.bfloat16) is made
    assert "packed" in repr(made)
    for use in (lambda: made + 1, made.float, made.zero_):
        with pytest.raises(ck.SealedError, match="has no values to work on: packed"):
            use()
