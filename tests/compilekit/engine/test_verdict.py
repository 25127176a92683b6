"""The verdict: whether the finished model is faster, and which step is to blame."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import take_all_times
from torch import nn

import compilekit as ck
from compilekit.engine import gate, pace, recording, verdict
from compilekit.engine.gate import broken_budgets
from compilekit.engine.pace import Pace, Pacer, one_after_the_other, pace_of
from compilekit.engine.recording import record
from compilekit.model import Model
from compilekit.recipe import Verify
from compilekit.report import Report, Speed, Verdict
from compilekit.report.verdict import kind, sentence

PLUGIN = """
import compilekit as ck

class Nothing(ck.Options): pass

@ck.hookimpl
def describe():
    return ck.StepDescription(
        help="A test's step.", options=Nothing, components="optional",
        effects=lambda options, device: ck.effects({changes!r}),
        advice=lambda options, device, machine: {advice!r},
    )

@ck.hookimpl
def optimize_model(model, context):
    module = model.module("model")
    {body}
    return ck.StepResult(matched={{"model": ["pause"]}}, changed={{"model": ["pause"]}})
"""


class Net(nn.Module):
    """Takes as long as it is told to, on a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.pause = 1.0
        self.count = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Net.calls += 1
        Net.clock += self.pause
        return self.layer(x)

    clock = 0.0
    calls = 0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are what the net says; no call is short."""

    def timed(run: Callable[[], object], wait: Callable[[], None]) -> tuple[float, object]:
        start = Net.clock
        result = run()
        return Net.clock - start, result

    Net.clock, Net.calls = 0.0, 0
    monkeypatch.setattr(recording, "timed", timed)
    take_all_times(monkeypatch)
    monkeypatch.setattr(verdict, "SHARE", 0.0)
    monkeypatch.setitem(gate.LEAST_SPEEDUP, "build", 1.0)
    monkeypatch.setattr("compilekit.engine.instruments.TIMING_SECONDS", 0.0)


class Unsteady(Net):
    """Counts its calls in what it gives."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return super().forward(x) + self.count


@pytest.fixture
def apply(tmp_path: Path, clock: None) -> Callable[..., Report]:
    """Apply steps that are written inline: `apply(slow="module.pause *= 3")`."""

    def _apply(
        *,
        advice: dict[str, list[str]] | None = None,
        verify: str = "{}",
        net: type[nn.Module] | None = None,
        **bodies: str,
    ) -> Report:
        files = []
        for name, body in bodies.items():
            file = tmp_path / f"{name}.py"
            said = (advice or {}).get(name, [])
            file.write_text(PLUGIN.format(changes="runtime", advice=said, body=body))
            files.append(file)
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(
            f"compilekit: 1\ntarget: {{device: cpu}}\nverify: {verify}\n"
            f"steps: [{', '.join(bodies)}]\n"
        )
        host = ck.load_host(plugins=files)
        inputs = {"x": torch.randn(2, 8)}
        return ck.apply(recipe, (net or Net)(), inputs=inputs, host=host, progress=False).report

    return _apply


def test_a_step_that_is_fast_is_said_to_be(apply):
    report = apply(fast="module.pause /= 2")
    first = str(report).splitlines()[0]
    assert (
        first
        == "2.00x faster than as loaded (0.50 s against 1.00 s; 1.82x to 2.20x), error 0.0e+00"
    )


def test_a_step_that_is_slow_is_said_to_be_and_named(apply):
    says = {"slow": ["this machine cannot do it well", "and more"]}
    report = apply(fast="module.pause /= 2", slow="module.pause *= 8", more="pass", advice=says)
    assert str(report).splitlines()[0] == (
        "4.00x SLOWER than as loaded (4.00 s against 1.00 s; 3.64x to 4.40x), error 0.0e+00. "
        "`slow` is to blame (0.12x): this machine cannot do it well"
    )


def test_a_step_that_makes_no_difference_is_said_to_make_none(apply):
    report = apply(same="pass")
    assert str(report).splitlines()[0] == (
        "no measurable difference from the model as loaded (0.87x to 1.15x), error 0.0e+00"
    )


def test_the_table_shows_the_times_that_were_taken_in_turn(apply):
    report = apply(fast="module.pause /= 4")
    assert [m.seconds for m in (*report.baseline, *report.final)] == [1.0, 0.25]
    assert (
        "speed of model: 0.25 s against 1.00 s, 4.00x (3.64x to 4.40x), 1 call in the sample"
        in (str(report).splitlines())
    )


def test_a_step_that_costs_nothing_costs_five_calls(apply):
    apply(same="pass")
    # The record, the copy's first, one after the step, and a pair in turn.
    assert Net.calls == 5


def test_a_small_difference_takes_more_pairs(apply):
    apply(slow="module.pause *= 1.2")
    assert Net.calls == 3 + 2 * pace.LEAST


def test_a_difference_that_one_pair_does_not_show_takes_more_where_that_costs_little(
    apply, monkeypatch
):
    assert "no measurable difference" in str(apply(slow="module.pause *= 1.1"))
    assert Net.calls == 5
    monkeypatch.setattr(verdict, "SHARE", 1e9)
    Net.calls = 0
    assert str(apply(slow="module.pause *= 1.1")).startswith("1.10x SLOWER")
    assert Net.calls == 3 + 2 * pace.LEAST


def test_without_room_for_a_copy_it_is_measured_before_and_after(apply, monkeypatch):
    monkeypatch.setattr(pace, "free_bytes", lambda: 300)
    report = apply(fast="module.pause /= 2")
    assert report.verdict is not None
    assert report.verdict.low == pytest.approx(2 / pace.DRIFT)
    assert str(report).splitlines()[0].startswith("2.00x faster")
    why = r"not in turn: a copy of the model, and a run, take .*, and 300 B are free"
    assert re.search(f"speed was measured before and after, {why}", str(report))


def test_a_difference_within_the_drift_of_the_machine_is_none(apply, monkeypatch):
    monkeypatch.setattr(pace, "free_bytes", lambda: 300)
    report = apply(fast="module.pause /= 1.2")
    assert "no measurable difference" in str(report).splitlines()[0]


def test_a_model_that_cannot_be_copied_is_measured_before_and_after(apply, monkeypatch):
    def refuse(self, memo):
        raise TypeError("no copies of me")

    monkeypatch.setattr(Net, "__deepcopy__", refuse, raising=False)
    report = apply(slow="module.pause *= 3")
    assert report.verdict is not None
    assert report.verdict.not_in_turn == ("the model cannot be copied (TypeError: no copies of me)")
    assert report.verdict.blame == "slow"


def test_a_copy_that_does_not_run_is_told(apply, monkeypatch):
    def broken(self, memo):
        copied = Net()
        copied.pause = "long"
        return copied

    monkeypatch.setattr(Net, "__deepcopy__", broken, raising=False)
    report = apply(same="pass")
    assert "before and after, not in turn: a copy of the model does not run" in str(report)
    assert report.verdict is not None
    assert report.verdict.not_in_turn.startswith("a copy of the model does not run beside it (T")


def test_a_copy_for_which_there_is_no_room_any_more_is_told(apply, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("all 80 GB are taken")

    monkeypatch.setattr(pace, "in_turn", full)
    report = apply(same="pass")
    assert report.verdict is None
    said = "speed was not measured: a copy of the model does not run beside it (OutOfMemoryError: "
    assert any(warning.startswith(said) for warning in report.warnings)


def test_a_failure_of_the_finished_model_is_no_fault_of_the_copy(apply):
    hook = "lambda module, *_: module.left.clear() if module.left.pop() else 0"
    with pytest.raises(ck.StepError, match=r"^model no longer runs: IndexError: pop from empty"):
        apply(same=f"module.left = [1]; module.register_forward_hook({hook})")


def test_a_model_that_answers_otherwise_each_time_is_named_in_the_error(apply):
    with pytest.raises(
        ck.VerificationError, match=r"set `budget:` on the step\. model gives other"
    ):
        apply(same="pass", net=Unsteady)


def test_min_speedup_stops_a_slow_result_and_names_the_step(apply):
    with pytest.raises(ck.errors.VerificationError) as raised:
        apply(slow="module.pause *= 2", verify="{min_speedup: 1.0}")
    assert str(raised.value) == (
        "the finished model is out of budget: model is 0.50x as fast as loaded (0.45x to 0.55x), "
        "and min_speedup is 1. `slow` is to blame (0.50x). `verify: {min_speedup: 0}` allows a "
        "slower model"
    )
    assert raised.value.report.verdict.blame == "slow"


def test_min_speedup_is_off_in_apply(apply):
    assert kind(apply(slow="module.pause *= 2").verdict) == "slower"


def speed(entry: str = "unet", *, low: float, high: float, compiled: bool = True) -> Speed:
    return Speed(
        entry=entry,
        calls=1,
        seconds=1,
        seconds_as_loaded=1,
        speedup=math.sqrt(low * high),
        low=low,
        high=high,
        compiled=compiled,
    )


def report_of(*speeds: Speed) -> Report:
    report = Report(recipe="r", digest="", device="cpu", reference="float32")
    report.verdict = Verdict(
        speedup=0.5, low=0.4, high=0.6, seconds=2, seconds_as_loaded=1, entries=list(speeds)
    )
    return report


@pytest.mark.parametrize(
    ("purpose", "verify", "speeds", "broken"),
    [
        ("build", {}, [speed(low=0.5, high=0.9)], ["unet"]),
        ("build", {}, [speed(low=0.5, high=1.1)], []),
        ("build", {}, [speed(low=0.97, high=0.98)], []),
        ("build", {}, [speed(low=0.5, high=0.9, compiled=False)], []),
        ("build", {"min_speedup": 0}, [speed(low=0.5, high=0.9)], []),
        ("build", {"min_speedup": 1.5}, [speed(low=1.1, high=1.3)], ["unet"]),
        ("apply", {}, [speed(low=0.5, high=0.9)], []),
        ("apply", {"min_speedup": 1}, [speed(low=0.5, high=0.9, compiled=False)], ["unet"]),
        (
            "apply",
            {"min_speedup": 1},
            [speed(low=0.5, high=0.9, compiled=False), speed("vae", low=1.1, high=1.2)],
            [],
        ),
    ],
)
@pytest.mark.usefixtures("clock")
def test_min_speedup_is_broken_where_the_whole_interval_lies_below_it(
    purpose, verify, speeds, broken
):
    problems = broken_budgets(Verify(**verify), report_of(*speeds), purpose)
    assert [problem.split()[0] for problem in problems] == broken


def test_each_entry_point_counts_by_the_time_of_its_calls(apply):
    report = report_of()
    assert (
        sentence(report.verdict)
        == "2.00x SLOWER than as loaded (2.00 s against 1.00 s; 1.67x to 2.50x)"
    )


@pytest.mark.usefixtures("clock")
def test_what_differs_for_sure():
    assert Pace(0.5, 0.4, 0.6).verdict == "faster"
    assert Pace(0.98, 0.97, 0.99).verdict == "noise"
    assert Pace(1.0, 0.5, 2.0).verdict == "untold"
    assert pace_of([(1.0, 2.0), (3.0, 2.0)] * 3) == Pace(1.0, 0.5, 1.5, 2.0, 2.0)
    assert pace_of([(1.0, 2.0)]) == Pace(0.5, 0.5 / 1.15, 0.5 * 1.15, 1.0, 2.0)
    assert one_after_the_other([2.0, 2.0], [1.0]) == Pace(0.5, 0.4, 0.625, 1.0, 2.0)


def _patched(module):
    """As users do: what was there is called from a function around it."""
    old = module.forward
    module.forward = lambda input: old(input)  # noqa: A006, PLW0108
    return module


def _hooked(module):
    """As diffusers does, with a hook that changes nothing."""
    from diffusers.hooks import HookRegistry, ModelHook

    HookRegistry.check_if_exists_or_initialize(module).register_hook(ModelHook(), "nothing")
    return module


def _closed(module):
    """A function of the user's own, which is no method."""
    module.helper = lambda x: module(x) + 1
    return module


def _compiled(module):
    module.compile()
    return module


def _itself(module):
    module.__deepcopy__ = lambda memo: module
    return module


@pytest.mark.parametrize(
    ("wrap", "why"),
    [
        (_patched, "forward is a function that knows it"),
        (_hooked, "forward is a function that knows it"),
        (_closed, "helper is a function that knows it"),
        (_compiled, "it is compiled in place"),
        (_itself, "__deepcopy__ is a function that knows it"),
    ],
)
def test_a_copy_that_would_run_the_weights_of_the_original_is_not_made(wrap, why):
    assert pacer(wrap(nn.Linear(4, 4).eval())).why_not == f"the model cannot be copied: {why}"


def test_a_copy_that_has_the_modules_of_the_original_is_none():
    class Shares(nn.Linear):
        def __deepcopy__(self, memo):
            return self

    why = "the model cannot be copied: its copy has the same modules"
    assert pacer(Shares(4, 4).eval()).why_not == why


def test_a_copy_that_does_not_run_is_known_before_the_steps():
    class Once(nn.Linear):
        def __deepcopy__(self, memo):
            copied = Once(3, 3)
            copied.eval()
            return copied

    assert "a copy of the model does not run beside it" in pacer(Once(4, 4).eval()).why_not


def test_functions_that_know_no_module_do_not_matter():
    net = nn.Sequential(nn.Linear(4, 4)).eval()
    net.forward = net[0].forward
    scale = 2.0
    net.helper = lambda x: x * scale
    assert pacer(net).why_not == ""


def pacer(net, **more):
    model = Model(net, {"input": torch.ones(1, 4)})
    calls, _ = record([model.entry_point("model")], lambda: model.run({}, 0), small_stay=False)
    return Pacer(model, calls.calls, **more)


def test_what_a_run_takes_must_stay_free_beside_the_copy(monkeypatch):
    monkeypatch.setattr("compilekit.engine.pace.free_bytes", lambda: 1000)
    assert pacer(nn.Linear(4, 4).eval()).why_not == ""
    assert (
        pacer(nn.Linear(4, 4).eval(), working=950).why_not
        == "a copy of the model, and a run, take 1.04 KB, and 1 KB are free"
    )


def test_a_bound_that_could_not_be_checked_is_broken():
    assert broken_budgets(Verify(min_speedup=1.5), report_of(), "apply") == [
        "min_speedup is set, and speed could not be measured"
    ]


def test_a_wide_interval_shows_no_sameness(apply):
    report = apply(fast="pass")
    wide = report.verdict.model_copy(update={"low": 0.4, "high": 2.5})
    assert sentence(wide) == (
        "times vary too much to tell a difference from the model as loaded (0.40x to 2.50x)"
    )
