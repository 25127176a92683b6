"""`doctor` writes what a machine can do, and `plan`, `apply` and `build` advise by it."""

from __future__ import annotations

import json
import sys

import pytest
from typer.testing import CliRunner

import compilekit as ck
from compilekit.cli import app

SLOW = ck.Machine(system="linux", cpu="old", cpu_flags=("avx2",), cores=2, memory=1 << 34)
run = CliRunner().invoke
SAID = "bfloat16 may be slow here: this processor has no instructions for it"


@pytest.fixture
def there(tmp_path):
    """The facts of a machine that has no bfloat16, in a file."""
    path = tmp_path / "there.json"
    path.write_text(SLOW.model_dump_json(), encoding="utf-8")
    return path


@pytest.fixture
def here(monkeypatch):
    """This machine has no bfloat16."""
    monkeypatch.setattr(sys.modules["compilekit.plan.plan"], "this_machine", lambda: SLOW)


def test_doctor_writes_facts_that_plan_reads(tmp_path):
    done = run(app, ["doctor", "--json"])
    path = tmp_path / "here.json"
    path.write_text(done.stdout, encoding="utf-8")
    machine = ck.Machine.read(path)
    assert machine.rates["cpu"].matmul.keys() >= {"float32", "bfloat16"}
    assert machine.rates["cpu"].convolution["float32"] > 0 < machine.rates["cpu"].memory
    assert ck.machine().rates == machine.rates
    assert run(app, ["plan", "sd/cpu", "--machine", str(path)]).exit_code == 0


def test_doctor_shows_the_rates_and_what_is_slow():
    lines = run(app, ["doctor"]).stdout.splitlines()
    assert any(line.split()[:1] == ["matmul"] for line in lines)
    assert any(line.startswith(ck.machine().cpu) for line in lines)


def test_plan_advises_for_another_machine(there):
    done = run(app, ["plan", "sd/cpu", "--machine", str(there)])
    assert (done.exit_code, f"advice: steps[0].precision: {SAID}" in done.stdout) == (0, True)
    listed = json.loads(run(app, ["plan", "sd/cpu", "--machine", str(there), "--json"]).stdout)
    assert listed["advice"] == [f"steps[0].precision: {SAID}"]


def test_strict_makes_advice_an_error(there, tmp_path):
    words = ["plan", "sd/cpu", "--strict", "--machine"]
    done = run(app, [*words, str(there)])
    assert (done.exit_code, f"compilekit: steps[0].precision: {SAID}" in done.stderr) == (3, True)
    assert run(app, words[:-1]).exit_code == 0
    done = run(app, [*words, str(tmp_path / "none.json")])
    assert (done.exit_code, "cannot be read: No such file" in done.stderr) == (2, True)


@pytest.mark.parametrize("verb", [ck.apply, ck.build, ck.explain])
def test_with_strict_nothing_is_loaded(verb, here):
    recipe = ck.Recipe.from_steps("precision{dtype=bfloat16}", sample={"prompt": "a cat"})
    with pytest.raises(ck.MachineError, match=SAID):
        verb(recipe, lambda: pytest.fail("it was loaded"), strict=True, progress=False)


def test_a_report_holds_the_advice(here):
    import torch

    recipe = ck.Recipe.from_steps("precision{dtype=bfloat16}")
    net, inputs = torch.nn.Linear(8, 8), {"input": torch.ones(1, 8)}
    report = ck.apply(recipe, net, inputs=inputs, progress=False).report
    assert report.advice == [f"steps[0].precision: {SAID}"]
    assert f"advice: steps[0].precision: {SAID}" in str(report).splitlines()
    found = ck.explain(recipe, torch.nn.Linear(8, 8), inputs=inputs, progress=False)
    assert f"advice: steps[0].precision: {SAID}" in str(found).splitlines()
