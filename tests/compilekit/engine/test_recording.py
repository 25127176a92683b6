"""Recording: which calls are kept, and that they come back as they were."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from compilekit.base.nested import mapped
from compilekit.engine.recording import (
    MAX_SIGNATURES,
    Call,
    Recording,
    _hold,
    on_cpu,
    record,
    run_call,
    timed_call,
)
from compilekit.model import Model


class Echo(nn.Module):
    """Gives back what it got, and spoils its input afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor, *, noise: Any = None, scale: float = 1.0) -> Any:
        kept = x.clone() * scale
        if noise is not None:
            kept = kept + torch.rand(x.shape, generator=noise)
        x.zero_()
        return {"kept": kept}


def recorded(calls: list[tuple[torch.Tensor, dict[str, Any]]]) -> tuple[Recording, Model, list]:
    net = Echo()
    model = Model(net, {"x": torch.ones(1)})
    outputs = []

    def run() -> None:
        outputs.extend(net(x, **keywords)["kept"] for x, keywords in calls)

    with torch.no_grad():
        recording, _ = record([model.entry_point("model")], run)
    return recording, model, outputs


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 20, 50, 101])
def test_the_first_middle_and_last_call_of_a_signature_are_kept(count):
    recording, _, _ = recorded([(torch.full((2,), float(i)), {}) for i in range(count)])
    kept = [call.index - 1 for call in recording.calls["model"]]
    assert kept[0] == 0
    assert kept[-1] == count - 1
    assert len(kept) == min(count, 3)
    assert abs(kept[len(kept) // 2] - (count - 1) / 2) <= max(1, count / 6)


def test_a_kept_call_runs_again_to_the_same_output_though_its_input_was_spoilt():
    torch.manual_seed(0)
    recording, model, outputs = recorded([(torch.randn(4), {"scale": 2.0})])
    (call,) = recording.calls["model"]
    for _ in range(2):
        again = run_call(model.entry_point("model"), call)
        assert torch.equal(again["kept"], outputs[0])


def test_a_generator_comes_back_in_the_state_that_it_had():
    noise = torch.Generator().manual_seed(5)
    recording, model, outputs = recorded([(torch.zeros(4), {"noise": noise})])
    (call,) = recording.calls["model"]
    assert torch.equal(run_call(model.entry_point("model"), call)["kept"], outputs[0])


class Pair(NamedTuple):
    first: Any
    second: Any


def test_arguments_and_outputs_keep_their_classes_and_nothing_shares_their_memory():
    held = torch.zeros(2, requires_grad=True)
    output = BaseModelOutput(last_hidden_state=held, hidden_states=(held,))
    given = {"pair": Pair(output, [held]), "size": torch.Size([2]), "empty": {}}
    call = Call("model", "", 1, None, *mapped(((), given), _hold))
    for copied in (call.inputs(None)[1], on_cpu(given)):
        pair = copied["pair"]
        assert (type(pair), type(pair.first), type(pair.second)) == (Pair, BaseModelOutput, list)
        assert (copied["size"], copied["empty"]) == (torch.Size([2]), {})
        assert copied["empty"] is not given["empty"]
        found = [pair.first.last_hidden_state, *pair.first.hidden_states, *pair.second]
        assert all(torch.equal(each, held) for each in found)
        assert held.data_ptr() not in [each.data_ptr() for each in found]


def test_calls_that_differ_in_shape_are_different_signatures():
    recording, _, _ = recorded([(torch.ones(n), {}) for n in (1, 2, 3)])
    assert [call.signature for call in recording.calls["model"]] == [
        f"x=float32[{n}]" for n in (1, 2, 3)
    ]


def test_signatures_beyond_the_limit_are_counted_and_not_kept():
    recording, _, _ = recorded([(torch.ones(n + 1), {}) for n in range(MAX_SIGNATURES + 5)])
    assert len(recording.calls["model"]) == MAX_SIGNATURES
    assert recording.dropped == {"model": 5}


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: x.t(),
        lambda x: x[:, :1].expand(-1, 5),
        lambda x: x[::2],
        lambda x: x.to(memory_format=torch.channels_last) if x.dim() == 4 else x[:, 1:],
    ],
    ids=["plain", "transposed", "expanded", "sliced", "narrowed"],
)
def test_inputs_come_back_with_the_strides_that_they_had(make):
    x = make(torch.randn(6, 7))
    net = nn.Identity()
    net.weight = nn.Parameter(torch.ones(1))
    model = Model(net, {"input": x})
    recording, _ = record([model.entry_point("model")], lambda: net(x))
    (call,) = recording.calls["model"]
    (again,), _ = call.inputs(torch.float32)
    assert torch.equal(again, x)
    assert again.stride() == x.stride()


def test_inputs_are_cast_with_the_weights_but_timesteps_of_pipelines_stay():
    latents, timestep = torch.randn(2, 4), torch.tensor([981.0, 961.0])

    class Taker(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return x + t[:, None]

    taker = Taker()
    model = Model(taker, {"x": latents})
    entries = [model.entry_point("model")]
    recording, _ = record(entries, lambda: taker(latents, timestep), small_stay=True)
    (x, t), _ = recording.calls["model"][0].inputs(torch.bfloat16)
    assert (x.dtype, t.dtype) == (torch.bfloat16, torch.float32)


class Embeds(nn.Module):
    """Wants its timesteps in the dtype of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.embed = nn.Linear(4, 4), nn.Linear(1, 4)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.embed(t[:, None])


def test_timesteps_are_cast_where_the_model_runs_with_no_others():
    embeds = Embeds().eval()
    x, t = torch.randn(2, 4), torch.tensor([0.5, 0.25])
    entry = Model(embeds, {"x": x}).entry_point("model")
    recording, _ = record([entry], lambda: embeds(x, t), small_stay=True)
    expected, call = embeds(x, t), recording.calls["model"][0]
    embeds.to(torch.bfloat16)
    torch.testing.assert_close(run_call(entry, call).float(), expected, rtol=0.05, atol=0.05)
    assert timed_call(entry, call, lambda: None)[0] > 0
    embeds.linear = nn.Linear(3, 4, dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run_call(entry, call)
