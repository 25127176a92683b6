"""A run: steps under instruments, gated by numbers, with the process left as it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import compilekit as ck

PLUGIN = """
import torch
import compilekit as ck

class Nothing(ck.Options): pass

@ck.hookimpl
def describe():
    return ck.StepDescription(
        help="A test's step.", options=Nothing, components="optional", {more}
        effects=lambda options, device: ck.effects({changes}),
    )

@ck.hookimpl
def optimize_model(model, context):
    module = model.module("model")
    {body}
    return ck.StepResult(matched={{"model": ["weight"]}}, changed={{"model": ["weight"]}})
"""


class Net(nn.Module):
    """Two layers, so that a step has something to change."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.first = nn.Linear(32, 48)
        self.second = nn.Linear(48, 16)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / 5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


@pytest.fixture
def run(write: Callable[[str, str], Path]) -> Callable[..., ck.Applied]:
    """Apply a recipe of steps that are written inline: `run(shrink=("weights", "..."))`."""

    def _run(
        net: nn.Module | None = None,
        *,
        verify: str = "{}",
        more: str = "",
        **steps: tuple[str, str],
    ) -> ck.Applied:
        files = []
        for name, (changes, body) in steps.items():
            quoted = ", ".join(f'"{change}"' for change in changes.split())
            text = PLUGIN.format(changes=quoted, body=body, more=more)
            files.append(write(f"{name}.py", text))
        lines = "".join(f"  - {name}\n" for name in steps)
        recipe = ck.Recipe.parse(
            f"compilekit: 1\ntarget: {{device: cpu}}\nverify: {verify}\nsteps:\n{lines}"
        )
        inputs = {"x": torch.randn(4, 32, generator=torch.Generator().manual_seed(0))}
        host = ck.load_host(files)
        return ck.apply(recipe, net or Net(), inputs=inputs, host=host, progress=False)

    return _run


SCALE = "module.second.weight.data *= {}"


def test_the_same_module_comes_back_changed(run):
    net = Net()
    weight = net.second.weight.clone()
    applied = run(net, scale=("weights", SCALE.format(1.0001)))
    assert applied.pipeline is net
    assert torch.equal(net.second.weight, weight * 1.0001)


def test_each_step_is_charged_with_its_own_change_and_the_sum_of_errors(run):
    report = run(
        one=("weights", SCALE.format(1.0004)), two=("weights", SCALE.format(1.0003))
    ).report
    first, second = (step.measurements[0] for step in report.steps)
    bias = 0.05  # the second layer's bias is not scaled
    assert first.change == pytest.approx(4e-4, rel=bias)
    assert first.error == pytest.approx(4e-4, rel=bias)
    assert second.change == pytest.approx(3e-4, rel=bias)
    assert second.error == pytest.approx(7e-4, rel=bias)
    assert report.final[0].error == second.error


def test_a_step_that_moves_an_output_by_a_hundredth_is_stopped_and_named(run, tmp_path):
    with pytest.raises(ck.VerificationError) as caught:
        run(fine=("weights", SCALE.format(1.0001)), shrink=("weights", SCALE.format(1.01)))
    message = str(caught.value)
    assert message.startswith(f"steps[1].shrink: plugin shrink ({tmp_path / 'shrink.py'}) moved")
    assert "its budget is 0.001" in message


def test_the_error_of_a_failed_run_carries_the_report_of_what_was_done(run):
    with pytest.raises(ck.VerificationError) as caught:
        run(fine=("weights", SCALE.format(1.0001)), shrink=("weights", SCALE.format(1.01)))
    report = caught.value.report
    assert report is not None
    assert [step.name for step in report.steps] == ["fine", "shrink"]
    assert report.steps[1].measurements[0].change == pytest.approx(0.01, rel=0.1)


def test_a_step_may_spend_what_its_description_allows(run):
    report = run(shrink=("weights", SCALE.format(1.01)), more="budget=0.02,").report
    assert report.steps[0].budget == 0.02


def test_the_recipes_own_budget_gates_the_finished_model(run):
    with pytest.raises(ck.VerificationError) as caught:
        run(fine=("weights", SCALE.format(1.0005)), verify="{max_relative_error: 0.0001}")
    assert str(caught.value).startswith(
        "the finished model is out of budget: model: relative error 0.00049 is over"
    )


def test_a_step_that_makes_nan_is_stopped_and_named(run, tmp_path):
    with pytest.raises(ck.NonFiniteError) as caught:
        run(shrink=("weights", SCALE.format("float('nan')")))
    assert str(caught.value).startswith(
        f"steps[0].shrink: plugin shrink ({tmp_path / 'shrink.py'}): model gives NaN or infinity"
    )


def test_a_step_that_changes_more_than_it_claims_is_named(run, tmp_path):
    with pytest.raises(ck.ClaimError) as caught:
        run(shrink=("layout", SCALE.format(1.0001)))
    assert str(caught.value) == (
        f"steps[0].shrink: plugin shrink ({tmp_path / 'shrink.py'}) changed weights of "
        "model.second.weight, and claims to change only layout"
    )


def test_a_step_that_claims_an_effect_it_does_not_have_is_named(run, tmp_path):
    with pytest.raises(ck.ClaimError) as caught:
        run(shrink=("weights compiled", SCALE.format(1.0001)))
    assert str(caught.value) == (
        f"steps[0].shrink: plugin shrink ({tmp_path / 'shrink.py'}) claims to change compiled, "
        "and changed none of it"
    )


def test_a_step_that_matches_nothing_is_an_error_unless_that_is_allowed(write):
    path = write(
        "shrink.py",
        PLUGIN.format(changes='"weights"', body="pass", more="").replace('["weight"]', "[]"),
    )
    host = ck.load_host([path])
    inputs = {"x": torch.randn(4, 32)}
    with pytest.raises(ck.NoMatchError, match=r"steps\[0\]\.shrink matched nothing in model"):
        ck.apply(ck.Recipe.from_steps("shrink"), Net(), inputs=inputs, host=host, progress=False)
    allowed = ck.Recipe.from_steps("shrink{allow_no_match=true}")
    assert ck.apply(allowed, Net(), inputs=inputs, host=host, progress=False)


def test_the_global_state_that_a_step_changes_is_put_back_and_reported(run):
    from torch._inductor import config

    body = """
    import os, torch._inductor.config as config
    config.coordinate_descent_tuning = True
    os.environ["COMPILEKIT_TEST"] = "1"
    torch.set_default_dtype(torch.float64)
    module.second.weight.data *= 1.0001"""
    report = run(leaky=("weights", body)).report
    assert config.coordinate_descent_tuning is False
    assert "COMPILEKIT_TEST" not in os.environ
    assert torch.get_default_dtype() == torch.float32
    changed = {key: (c.before, c.after, c.kept) for key, c in report.steps[0].state.items()}
    assert changed == {
        "torch._inductor.config.coordinate_descent_tuning": ("False", "True", ""),
        "os.environ.COMPILEKIT_TEST": ("(not set)", "1", ""),
        "torch.default_dtype": ("torch.float32", "torch.float64", ""),
    }


def test_the_global_state_is_put_back_after_a_step_that_raises(run):
    body = "torch.set_default_dtype(torch.float64); raise ValueError('no')"
    with pytest.raises(ck.StepError):
        run(leaky=("weights", body))
    assert torch.get_default_dtype() == torch.float32


def test_state_that_a_step_must_keep_stays_and_is_reported_with_its_reason(run, write):
    body = "torch.set_num_threads(torch.get_num_threads()); torch.set_default_dtype(torch.float64)"
    text = PLUGIN.format(changes='"runtime"', body=body, more="").replace(
        'changed={"model": ["weight"]}',
        'changed={"model": ["weight"]}, kept_state={"torch.default_*": "it must stay"}',
    )
    host = ck.load_host([write("keeper.py", text)])
    try:
        report = ck.apply(
            ck.Recipe.from_steps("keeper"),
            Net(),
            inputs={"x": torch.randn(4, 32)},
            host=host,
            progress=False,
        ).report
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert report.steps[0].state["torch.default_dtype"].kept == "it must stay"


def test_the_reference_is_float32_whatever_the_model_was_loaded_in():
    net = Net().to(torch.bfloat16)
    weights = [p.clone() for p in net.parameters()]
    inputs = {"x": torch.randn(4, 32, dtype=torch.bfloat16)}
    recipe = ck.Recipe.from_steps("precision{dtype=bfloat16}")
    baseline = ck.apply(recipe, net, inputs=inputs, progress=False).report.baseline[0]
    assert 1e-4 < baseline.error < 2e-2
    assert all(torch.equal(a, b) for a, b in zip(weights, net.parameters(), strict=True))


def test_against_the_model_as_loaded_the_error_starts_at_nothing():
    recipe = ck.Recipe.parse(
        "compilekit: 1\ntarget: {device: cpu}\nverify: {reference: as_loaded}\n"
        "steps: [{precision: {dtype: bfloat16}}]\n"
    )
    inputs = {"x": torch.randn(4, 32)}
    report = ck.apply(recipe, Net(), inputs=inputs, progress=False).report
    assert report.baseline[0].error == 0.0
    assert 1e-4 < report.final[0].error < 2e-2


def test_a_component_that_the_model_lacks_is_reported_at_its_place():
    recipe = ck.Recipe.from_steps("channels_last{components=[unet, model.third]}")
    with pytest.raises(ck.RecipeError) as caught:
        ck.apply(recipe, Net(), inputs={"x": torch.randn(4, 32)}, progress=False)
    assert str(caught.value) == (
        '<steps>:1:27: steps[0].channels_last: Net has no component "unet"; it has model.'
    )


def test_an_entry_point_that_the_component_lacks_is_reported():
    recipe = ck.Recipe.from_steps("torch_compile{components=[model.frist]}")
    with pytest.raises(ck.RecipeError, match=r'"model" has no module or method "frist"\. Did you'):
        ck.apply(recipe, Net(), inputs={"x": torch.randn(4, 32)}, progress=False)


def test_a_target_that_is_not_here_is_refused_before_anything_runs():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    recipe = ck.Recipe.from_steps("channels_last{components=model}", device="cuda")
    with pytest.raises(ck.MachineError, match="sees no such device"):
        ck.apply(recipe, Net(), inputs={"x": torch.randn(4, 32)}, progress=False)


def test_a_package_that_a_step_needs_is_asked_for_before_anything_runs(write, monkeypatch):
    text = PLUGIN.format(changes='"weights"', body="", more='packages=("acme-kernels",),')
    host = ck.load_host([write("shrink.py", text)])
    with pytest.raises(ck.MachineError) as caught:
        ck.apply(ck.Recipe.from_steps("shrink"), Net(), host=host, progress=False)
    assert str(caught.value) == "steps[0].shrink needs acme-kernels: pip install acme-kernels"


@pytest.mark.parametrize("subject", [3, object()], ids=["a number", "an object"])
def test_what_is_no_model_is_refused(subject: Any):
    with pytest.raises(ck.UsageError, match=r"neither a diffusers pipeline nor an nn\.Module"):
        ck.apply(ck.Recipe.from_steps("precision{dtype=bfloat16}"), subject, progress=False)


def test_a_step_after_which_the_model_no_longer_runs_is_named(run, tmp_path):
    body = "module.second = torch.nn.Linear(3, 3)"
    with pytest.raises(ck.StepError) as caught:
        run(shrink=("structure", body))
    assert str(caught.value).startswith(
        f"steps[0].shrink: plugin shrink ({tmp_path / 'shrink.py'}): model no longer runs: "
        "RuntimeError: "
    )


def test_a_sample_that_the_model_does_not_take_is_a_plain_error():
    recipe = ck.Recipe.from_steps("precision{dtype=bfloat16}")
    with pytest.raises(ck.ModelError, match="does not run on the model as loaded: RuntimeError"):
        ck.apply(recipe, Net(), inputs={"x": torch.randn(4, 3)}, progress=False)


class Counting(nn.Linear):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * self.calls


def test_a_model_that_answers_one_call_in_two_ways_is_told():
    recipe = ck.Recipe.from_steps("precision{dtype=bfloat16, budget=100}")
    for net, name, count in ((Counting(8, 8), "x", 1), (nn.Linear(8, 8), "input", 0)):
        inputs = {name: torch.ones(2, 8)}
        report = ck.apply(recipe, net.eval(), inputs=inputs, progress=False).report
        said = [text for text in report.warnings if "gives other outputs for the same call" in text]
        assert len(said) == count
