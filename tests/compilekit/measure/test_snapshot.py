import pytest
import torch
from snapshots import Net, done_to
from torch import Tensor, nn

from compilekit.measure.snapshot import changes, look

# The environments of vendors' backends are without it: it does not go with their older libraries.
torchao = pytest.importorskip("torchao.quantization")
quantize_ = torchao.quantize_
INT8 = torchao.Int8WeightOnlyConfig(set_inductor_config=False)


def test_nothing_done_is_nothing_changed() -> None:
    net = Net()
    assert done_to(net, lambda: None) == {}


def test_running_a_module_changes_nothing() -> None:
    net = Net().eval()
    assert done_to(net, lambda: net(torch.ones(2, 8))) == {}


def test_an_edited_parameter_is_weights() -> None:
    net = Net()
    assert done_to(net, lambda: net.linear.weight.mul_(2)) == {"weights": ["linear.weight"]}


def test_an_edited_buffer_is_weights() -> None:
    net = Net()
    assert done_to(net, lambda: net.norm.running_mean.add_(1)) == {"weights": ["norm.running_mean"]}


def test_a_replaced_parameter_of_equal_values_is_no_change() -> None:
    net = Net()
    copy = nn.Parameter(net.linear.weight.detach().clone())
    assert done_to(net, lambda: setattr(net.linear, "weight", copy)) == {}


def test_one_edited_column_of_a_large_matrix_is_seen() -> None:
    linear = nn.Linear(1280, 1280, bias=False)
    for column in (0, 1, 777, 1279):
        assert done_to(linear, lambda at=column: linear.weight[:, at].add_(1)) == {
            "weights": ["weight"]
        }


def test_a_sample_holds_at_most_1024_values_from_all_over_the_tensor() -> None:
    for count in (1, 1024, 1025, 2047, 2048, 100_000):
        module = nn.Module()
        module.register_buffer("values", torch.arange(count))
        (sample,) = look(module).tensors["values"].sample
        assert min(count, 1024 // 3) <= len(sample) <= 1024
        assert sample[-1] >= 0.99 * (count - 1)


def test_nan_equals_itself() -> None:
    net = Net()
    with torch.no_grad():
        net.linear.bias.fill_(torch.nan)
    assert done_to(net, lambda: None) == {}


def test_a_cast_is_dtype_and_not_weights() -> None:
    net = nn.Sequential(nn.Linear(4, 4))
    assert done_to(net, net.bfloat16) == {"dtype": ["0.weight", "0.bias"]}


def test_a_cast_by_way_of_another_dtype_is_not_weights() -> None:
    net = nn.Linear(4, 4)
    assert done_to(net, lambda: net.half().bfloat16()) == {"dtype": ["weight", "bias"]}


def test_a_cast_of_very_small_values_is_not_weights() -> None:
    net = nn.Linear(4, 4)
    with torch.no_grad():
        net.weight.mul_(1e-9)
    assert done_to(net, net.half) == {"dtype": ["weight", "bias"]}


def test_a_cast_with_an_edit_is_both() -> None:
    net = nn.Linear(4, 4, bias=False)
    assert done_to(net, lambda: net.bfloat16().weight.mul_(1.1)) == {
        "weights": ["weight"],
        "dtype": ["weight"],
    }


def test_channels_last_is_layout_and_not_weights() -> None:
    net = Net()
    assert done_to(net, lambda: net.to(memory_format=torch.channels_last)) == {
        "layout": ["conv.weight"]
    }


def test_strides_of_dimensions_of_one_element_are_no_layout() -> None:
    net = nn.Conv2d(3, 4, 1)
    assert done_to(net, lambda: net.to(memory_format=torch.channels_last)) == {}


def test_an_edit_in_another_layout_is_both() -> None:
    net = nn.Conv2d(3, 4, 3, bias=False)
    assert done_to(net, lambda: net.to(memory_format=torch.channels_last).weight.add_(1)) == {
        "weights": ["weight"],
        "layout": ["weight"],
    }


def test_a_tensor_of_another_class_is_weights_though_its_values_are_equal() -> None:
    class Other(Tensor):
        pass

    module = nn.Module()
    module.register_buffer("values", torch.ones(4))
    other = torch.ones(4).as_subclass(Other)
    assert done_to(module, lambda: setattr(module, "values", other)) == {"weights": ["values"]}


def test_a_parameter_that_becomes_a_buffer_is_no_change() -> None:
    net = nn.Linear(4, 4, bias=False)

    def act() -> None:
        values = net.weight.detach()
        del net.weight
        net.register_buffer("weight", values)

    assert done_to(net, act) == {}


def test_quantised_weights_are_weights_alone() -> None:
    net = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
    assert done_to(net[0], lambda: quantize_(net, INT8)) == {"weights": ["weight"]}


def test_quantised_weights_stay_equal_to_themselves() -> None:
    net = nn.Sequential(nn.Linear(32, 32))
    quantize_(net, INT8)
    assert done_to(net, lambda: None) == {}


def test_an_edit_inside_quantised_weights_is_weights() -> None:
    net = nn.Sequential(nn.Linear(32, 32))
    quantize_(net, INT8)
    packed = net[0].weight
    while not hasattr(packed, "scale"):  # torchao once nested them
        packed = packed.tensor_impl
    assert done_to(net, lambda: packed.scale.mul_(2)) == {"weights": ["0.weight"]}


def test_a_tensor_that_only_dequantizes_is_sampled_that_way() -> None:
    class Opaque(Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            if func is Tensor.__getitem__:
                raise TypeError
            return super().__torch_function__(func, types, args, kwargs or {})

        def dequantize(self) -> Tensor:
            return self.as_subclass(Tensor) * 2

    module = nn.Module()
    module.register_buffer("packed", torch.ones(4).as_subclass(Opaque))
    assert look(module).tensors["packed"].sample[0].tolist() == [2, 2, 2, 2]
    assert done_to(module, lambda: module.packed.add_(1)) == {"weights": ["packed"]}


@pytest.mark.parametrize("name", ["uint4", "float4_e2m1fn_x2"])
def test_a_tensor_that_cannot_be_sampled_is_left_out(name: str) -> None:
    module = nn.Module()
    module.register_buffer("packed", torch.zeros(4, dtype=torch.uint8).view(getattr(torch, name)))
    assert look(module).tensors["packed"].sample == ()
    assert done_to(module, lambda: None) == {}


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(0, 4),
        torch.tensor(3.0),
        torch.tensor([1j]),
        torch.zeros(4, dtype=torch.float8_e4m3fn),
        torch.zeros(4, device="meta"),
        torch.eye(3).to_sparse(),
        torch.ones(3).expand(4, 3),
    ],
    ids=["empty", "scalar", "complex", "float8", "meta", "sparse", "expanded"],
)
def test_unusual_tensors_do_not_seem_to_change(tensor: Tensor) -> None:
    module = nn.Module()
    module.register_buffer("odd", tensor)
    assert done_to(module, lambda: None) == {}


def test_lazy_parameters_become_structure() -> None:
    lazy = nn.LazyLinear(4, bias=False)
    lazy(torch.ones(2, 8))
    fresh = nn.LazyLinear(4, bias=False)
    assert changes(look(fresh), look(lazy))["structure"] == ["", "weight"]


@pytest.mark.parametrize(
    "weight", [torch.rand(1).expand(8), torch.rand(8, 16)[:, :4]], ids=["expanded", "with gaps"]
)
def test_a_cast_that_closes_gaps_is_no_change_of_layout(weight) -> None:
    net = nn.Module()
    net.register_parameter("weight", nn.Parameter(weight))
    assert done_to(net, lambda: net.to(torch.bfloat16)) == {"dtype": ["weight"]}


def test_what_is_compiled_around_a_compiled_module_is_compiled() -> None:
    net = torch.compile(nn.Linear(3, 4), backend="eager")
    assert done_to(net, lambda: net.compile(backend="eager")) == {"compiled": [""]}
