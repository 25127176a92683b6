import functools
from collections.abc import Callable

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_

from compilekit.measure.snapshot import changes, look
from compilekit.steps import Change

INT8 = Int8WeightOnlyConfig(set_inductor_config=False)

# Compiled by nothing: what the snapshot looks for is the same with every backend.
compiled = functools.partial(torch.compile, backend="eager")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm1d(8)
        self.linear = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x))

    def decode(self, x: Tensor) -> Tensor:
        return self.linear(x)


def done_to(module: nn.Module, act: Callable[[], object]) -> dict[Change, list[str]]:
    before = look(module)
    with torch.no_grad():
        act()
    return changes(before, look(module))


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


def test_a_move_to_another_device_is_runtime() -> None:
    net = nn.Linear(4, 4, bias=False)
    assert done_to(net, lambda: net.to("meta")) == {"runtime": ["weight"]}


def test_module_compile_is_compiled() -> None:
    net = Net()
    assert done_to(net, lambda: net.conv.compile(backend="eager")) == {"compiled": ["conv"]}


def test_compiling_anew_is_compiled() -> None:
    net = Net()
    net.compile(backend="eager")
    assert done_to(net, lambda: net.compile(backend="eager")) == {"compiled": [""]}


def test_a_compiled_wrapper_in_place_of_a_child_is_compiled_and_keeps_names() -> None:
    net = Net()
    assert done_to(net, lambda: setattr(net, "linear", compiled(net.linear))) == {
        "compiled": ["linear"]
    }


def test_a_compiled_wrapper_around_the_module_itself_is_compiled() -> None:
    net = Net()
    assert changes(look(net), look(compiled(net))) == {"compiled": [""]}


def test_a_compiled_method_is_compiled() -> None:
    net = Net()
    assert done_to(net, lambda: setattr(net, "decode", compiled(net.decode))) == {"compiled": [""]}


def test_a_method_replaced_by_another_is_runtime() -> None:
    net = Net()
    assert done_to(net, lambda: setattr(net, "decode", lambda x: x)) == {"runtime": [""]}


def test_a_replaced_method_that_is_then_compiled_is_compiled() -> None:
    net = Net()
    net.decode = lambda x: x
    assert done_to(net, lambda: setattr(net, "decode", compiled(net.decode))) == {"compiled": [""]}


def test_a_wrapper_around_a_compiled_method_is_runtime() -> None:
    net = Net()
    fast = compiled(net.forward)
    net.forward = fast
    wrapper = functools.wraps(fast)(lambda x: 2 * fast(x))
    assert done_to(net, lambda: setattr(net, "forward", wrapper)) == {"runtime": [""]}


def test_a_compiled_method_beneath_a_new_wrapper_is_both() -> None:
    net = Net()

    def act() -> None:
        fast = compiled(net.forward)
        net.forward = functools.wraps(fast)(lambda x: 2 * fast(x))

    assert done_to(net, act) == {"runtime": [""], "compiled": [""]}


def test_a_method_kept_from_the_compiler_is_runtime() -> None:
    net = Net()
    assert done_to(net, lambda: setattr(net, "decode", torch.compiler.disable(net.decode))) == {
        "runtime": [""]
    }


def test_the_hooks_of_accelerate_are_runtime() -> None:
    net = Net()
    net.linear.compile(backend="eager")
    assert done_to(net, lambda: add_hook_to_module(net.linear, ModelHook())) == {
        "runtime": ["linear"]
    }


def test_a_bound_method_stored_again_is_no_change() -> None:
    net = Net()
    net.act = net.linear.forward
    assert done_to(net, lambda: setattr(net, "act", net.linear.forward)) == {}


def test_how_a_module_prints_is_no_change() -> None:
    net = Net()
    assert done_to(net, lambda: setattr(net, "extra_repr", lambda: "new")) == {}


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_forward_hook_is_runtime(register: str) -> None:
    net = Net()
    act = functools.partial(getattr(net.linear, register), print)
    assert done_to(net, act) == {"runtime": ["linear"]}


def test_going_from_training_to_evaluation_is_runtime() -> None:
    net = nn.Sequential(nn.Dropout())
    assert done_to(net, net.eval) == {"runtime": ["", "0"]}


def test_a_new_module_is_structure_and_its_weights_are_not_listed() -> None:
    net = Net()
    assert done_to(net, lambda: setattr(net, "extra", nn.Linear(2, 2))) == {"structure": ["extra"]}


def test_a_removed_module_is_structure() -> None:
    net = Net()
    assert done_to(net, lambda: delattr(net, "conv")) == {"structure": ["conv"]}


def test_a_module_of_another_class_is_structure() -> None:
    net = nn.Sequential(nn.ReLU())
    assert done_to(net, lambda: net.__setitem__(0, nn.GELU())) == {"structure": ["0"]}


def test_a_removed_parameter_is_structure() -> None:
    net = Net()
    assert done_to(net, lambda: setattr(net.linear, "bias", None)) == {"structure": ["linear.bias"]}


def test_a_parameter_of_another_shape_is_structure() -> None:
    net = nn.Linear(4, 4, bias=False)
    wider = nn.Parameter(torch.ones(4, 8))
    assert done_to(net, lambda: setattr(net, "weight", wider)) == {"structure": ["weight"]}


def test_fused_attention_of_diffusers_is_structure() -> None:
    net = nn.Sequential(Attention(query_dim=8, heads=2, dim_head=4))
    found = done_to(net, net[0].fuse_projections)
    assert found == {"structure": ["0.to_qkv"]}


def test_another_attention_processor_is_structure() -> None:
    net = nn.Sequential(Attention(query_dim=8, heads=2, dim_head=4))
    net[0].set_processor(AttnProcessor2_0())
    assert done_to(net, lambda: net[0].set_processor(AttnProcessor())) == {"structure": ["0"]}


def test_another_attention_processor_of_the_same_class_is_no_change() -> None:
    net = nn.Sequential(Attention(query_dim=8, heads=2, dim_head=4))
    net[0].set_processor(AttnProcessor())
    assert done_to(net, lambda: net[0].set_processor(AttnProcessor())) == {}


def test_another_attention_backend_is_runtime() -> None:
    net = nn.Sequential(Attention(query_dim=8, heads=2, dim_head=4))
    assert done_to(net, lambda: setattr(net[0].processor, "_attention_backend", "native")) == {
        "runtime": ["0"]
    }


def test_tiling_is_runtime() -> None:
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=1, layers_per_block=1)
    assert done_to(vae, vae.enable_tiling) == {"runtime": [""]}
    assert done_to(vae, vae.enable_slicing) == {"runtime": [""]}


def test_several_changes_are_all_found_in_a_fixed_order() -> None:
    net = Net()

    def act() -> None:
        net.linear.bias.add_(1)
        net.conv.to(memory_format=torch.channels_last)
        net.norm.half()
        net.extra = nn.ReLU()
        net.register_forward_hook(print)
        net.compile(backend="eager")

    assert done_to(net, act) == {
        "weights": ["linear.bias"],
        "structure": ["extra"],
        "layout": ["conv.weight"],
        "dtype": ["norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"],
        "runtime": [""],
        "compiled": [""],
    }


def test_a_module_is_looked_at_without_gradients_or_copies_of_its_weights() -> None:
    net = nn.Linear(512, 512)
    snapshot = look(net)
    held = sum(each.nbytes for tensor in snapshot.tensors.values() for each in tensor.sample)
    assert held <= 2 * 1024 * 4
    assert not any(each.requires_grad for look in snapshot.tensors.values() for each in look.sample)
