"""What a snapshot sees of how a module runs: hooks, compiled code, structure."""

import functools

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from snapshots import Net, done_to
from torch import nn

from compilekit.measure.snapshot import changes, look

# Compiled by nothing: what the snapshot looks for is the same with every backend.
compiled = functools.partial(torch.compile, backend="eager")


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
