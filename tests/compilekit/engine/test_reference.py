"""The reference: float32 numbers without a float32 model."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
from torch import nn

from compilekit.engine.recording import record
from compilekit.engine.reference import needs_reference, outputs_of, reference_outputs
from compilekit.engine.upcast import Wide, upcast
from compilekit.errors import ModelError
from compilekit.subject.model import EntryPoint, Model
from compilekit.testing import tiny_pipeline

FAMILIES = {
    "sd": ["unet", "vae.decode", "text_encoder"],
    "sdxl": ["unet", "vae.decode", "text_encoder_2"],
    "sd3": ["transformer", "text_encoder_3"],
    "flux": ["transformer", "vae.decode", "text_encoder_2"],
    "StableVideoDiffusionPipeline": ["unet", "image_encoder"],
}
SEED = torch.randint(1 << 31, ()).item()


def entry_of(module: nn.Module, name: str = "model") -> EntryPoint:
    return EntryPoint(name, name, module, "forward")


def recorded(module: nn.Module, *args: torch.Tensor):
    with torch.no_grad():
        recording, _ = record([entry_of(module)], lambda: module(*args))
    return recording.calls["model"]


def whole(entry: EntryPoint, calls):
    """The same numbers in the obvious way: a copy of everything in float32."""
    module = copy.deepcopy(entry.owner).float()
    return reference_outputs(EntryPoint(entry.name, entry.component, module, entry.method), calls)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_equal_to_a_whole_float32_model_to_the_bit(family):
    pipeline = tiny_pipeline(family).to(torch.bfloat16)
    model = Model(pipeline)
    entries = [
        model.entry_point(name) for name in FAMILIES[family] if name.split(".")[0] in model.modules
    ]
    assert len(entries) > 1
    sample = {"height": 64, "width": 64, "num_inference_steps": 1}
    arguments = _arguments(family) | sample
    recording, _ = record(entries, lambda: model.run(arguments, SEED), small_stay=True)
    for entry in entries:
        before = {name: tensor.clone() for name, tensor in entry.owner.state_dict().items()}
        expected = whole(entry, recording.calls[entry.name])
        given = reference_outputs(entry, recording.calls[entry.name])
        for one, other in zip(given, expected, strict=True):
            for (name, actual), (_, wanted) in zip(one, other, strict=True):
                assert actual.dtype == torch.float32
                assert torch.equal(actual, wanted), f"{entry.name}: {name}"
        after = entry.owner.state_dict()
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
        assert not any(isinstance(tensor, Wide) for tensor in entry.owner.parameters())


def _arguments(family: str):
    if family == "StableVideoDiffusionPipeline":
        from PIL import Image

        return {
            "image": Image.new("RGB", (64, 64), "teal"),
            "num_frames": 2,
            "decode_chunk_size": 2,
        }
    return {"prompt": "a cat"}


class Odd(nn.Module):
    """Reads its weights in ways that go past its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(16, 16)
        self.tied = nn.Linear(16, 16)
        self.tied.weight = self.one.weight
        self.scale = nn.Parameter(torch.randn(16))
        self.register_buffer("calls", torch.zeros((), dtype=torch.bfloat16))
        self.cell = nn.LSTM(16, 16, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        x = x.to(self.scale.dtype) @ self.one.weight.t()[:, :16] * self.scale.view(1, 1, -1)
        x = nn.functional.linear(x, self.tied.weight, self.tied.bias.data)
        return self.cell(x)[0] * self.calls


def test_weights_that_no_layer_reads_are_float32_too():
    net = Odd().to(torch.bfloat16)
    calls = recorded(net, torch.randn(2, 3, 16, dtype=torch.bfloat16))
    [[(_, given)]] = reference_outputs(entry_of(net), calls)
    [[(_, expected)]] = whole(entry_of(net), calls)
    assert torch.equal(given, expected)
    assert net.tied.weight is net.one.weight
    assert isinstance(net.scale, nn.Parameter)
    assert net.calls.item() == 1


def test_no_float32_weight_lives_longer_than_the_operation_that_reads_it(monkeypatch):
    net = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4))).to(torch.bfloat16)
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0
    make = Wide._value

    def counted(self: Wide) -> torch.Tensor:
        nonlocal most
        value = make(self)
        alive.append(weakref.ref(value))
        most = max(most, sum(ref() is not None for ref in alive))
        return value

    monkeypatch.setattr(Wide, "_value", counted)
    reference_outputs(entry_of(net), recorded(net, torch.ones(1, 64, dtype=torch.bfloat16)))
    assert len(alive) == 8
    assert most <= 2  # the weight and the bias of one layer


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_offloaded_weights_are_fetched_one_by_one(where, tmp_path):
    from accelerate import cpu_offload, disk_offload

    net = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 16)).to(torch.bfloat16)
    inputs = torch.randn(2, 16, dtype=torch.bfloat16)
    calls = recorded(net, inputs)
    [[(_, expected)]] = whole(entry_of(net), calls)
    with torch.no_grad():
        as_loaded = net(inputs)
    if where == "disk":
        disk_offload(net, str(tmp_path), execution_device=torch.device("cpu"))
    else:
        cpu_offload(net, execution_device=torch.device("cpu"))
    assert net[0].weight.is_meta
    assert needs_reference(net)
    [[(_, given)]] = reference_outputs(entry_of(net), calls)
    assert torch.equal(given, expected)
    assert net[0].weight.is_meta
    with torch.no_grad():
        assert torch.equal(net(inputs), as_loaded)


def test_quantised_weights_are_dequantised_one_by_one():
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16)).to(torch.bfloat16)
    quantize_(net, Int8WeightOnlyConfig())
    calls = recorded(net, torch.randn(3, 64, dtype=torch.bfloat16))
    plain = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
    for one, other in ((plain[0], net[0]), (plain[2], net[2])):
        one.weight.data = other.weight.dequantize().float()
        one.bias.data = other.bias.float()
    args, kwargs = calls[0].inputs(torch.float32)
    with torch.no_grad():
        [(_, expected)] = outputs_of(plain(*args, **kwargs))
    [[(_, given)]] = reference_outputs(entry_of(net), calls)
    assert torch.equal(given, expected)


def test_weights_that_are_nowhere_are_refused():
    with torch.device("meta"):
        net = nn.Linear(4, 4)
    words = r"^model.weight is not in memory; say `verify: {ref"
    with pytest.raises(ModelError, match=words), upcast(net, "model"):
        pass


def test_a_float32_model_needs_none():
    net = nn.Linear(4, 4)
    assert not needs_reference(net)
    assert needs_reference(net.to(torch.bfloat16))


def test_weights_that_blocks_move_and_a_disk_holds_are_fetched(tmp_path):
    from accelerate import dispatch_model

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU())

        def forward(self, x):
            return self.two(self.one(x))

    net = Two().to(torch.bfloat16).eval()
    calls = recorded(net, torch.randn(2, 8, dtype=torch.bfloat16))
    [[(_, expected)]] = whole(entry_of(net), calls)
    dispatch_model(
        net,
        {"one": "cpu", "two": "disk"},
        main_device="cpu",
        offload_dir=str(tmp_path),
        force_hooks=True,
    )
    assert net.two[0].weight.is_meta
    [[(_, given)]] = reference_outputs(entry_of(net), calls)
    assert torch.equal(given, expected)


def test_weights_that_are_cast_for_each_call_have_no_reference():
    from diffusers.hooks import apply_layerwise_casting

    net = nn.Sequential(nn.Linear(8, 8))
    apply_layerwise_casting(net, storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    assert needs_reference(net)
    words = "^model casts its weights for each call; say `verify: {ref"
    with pytest.raises(ModelError, match=words), upcast(net, "model"):
        pass
