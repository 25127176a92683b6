"""`doctor` writes what a machine can do, and `plan`, `apply` and `build` advise by it."""

from __future__ import annotations

import json
import sys

import pytest
from typer.testing import CliRunner

import compilekit as ck
from compilekit.base.bytesize import size
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
    monkeypatch.setattr(sys.modules["compilekit.plan.advice"], "this_machine", lambda: SLOW)


def test_doctor_writes_facts_that_plan_reads(tmp_path):
    done = run(app, ["doctor", "--json"])
    path = tmp_path / "here.json"
    path.write_text(done.stdout, encoding="utf-8")
    machine = ck.Machine.read(path)
    assert machine.rates["cpu"].matmul.keys() >= {"float32", "bfloat16"}
    assert machine.rates["cpu"].convolution["float32"] > 0 < machine.rates["cpu"].memory
    assert ck.machine().rates == machine.rates
    assert run(app, ["plan", "sd/cpu", "--machine", str(path)]).exit_code == 0


def test_doctor_shows_rates_that_it_cannot_keep(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPILEKIT_CACHE", str(tmp_path / "taken" / "cache"))
    (tmp_path / "taken").write_text("", encoding="utf-8")
    done = run(app, ["doctor", "--json"])
    rows = {row["what"]: row for row in json.loads(done.stdout)}
    assert (done.exit_code, rows["kept rates"]["state"]) == (0, "absent")
    assert "the rates cannot be kept there: Not a directory" in rows["kept rates"]["advice"]
    assert rows["machine"]["facts"]["rates"]["cpu"]["memory"] > 0
    assert "kept rates" in run(app, ["doctor"]).stdout


def test_doctor_knows_the_limit_of_a_container_and_the_threads(tmp_path, monkeypatch):
    group = tmp_path / "cgroup"
    group.mkdir()
    (group / "cpu.max").write_text("150000 100000", encoding="ascii")
    (group / "memory.max").write_text(str(1 << 30), encoding="ascii")
    proc = tmp_path / "proc" / "self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text("0::/\n", encoding="ascii")
    monkeypatch.setattr("compilekit.base.control_groups._PROC", tmp_path / "proc")
    monkeypatch.setattr("compilekit.base.control_groups._GROUPS", group)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr("torch.get_num_threads", lambda: 64)
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    lines = run(app, ["doctor"]).stdout.splitlines()
    assert f"{ck.machine().cpu}, 2 cores, {size(1 << 30)}" in lines
    said = "torch computes with 64 threads on 2 cores, so they wait for each other: set "
    assert f"{said}OMP_NUM_THREADS=2" in lines
    # What doctor found is known from then on, without torch.
    assert ck.machine().threads == 64


def test_an_unknown_limit_of_extensions_harms_nothing(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX9000")
    done = run(app, ["doctor", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)[-1]["facts"]["cpu_flags"] == list(ck.machine().cpu_flags)


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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        ("{", "is no JSON file: Expecting property name enclosed in double quotes"),
        ("[1, 2]", "holds no facts of a machine, as `compilekit doctor --json` writes them"),
        ('{"compilekit_machine": 7}', "a newer compilekit wrote these facts: update compilekit"),
    ],
)
def test_a_file_without_facts_is_one_sentence(tmp_path, text, said):
    path = tmp_path / "there.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    done = run(app, ["plan", "sd/cpu", "--machine", str(path)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"compilekit: {path}: {said}")
    assert len(done.stderr.splitlines()) == 1


ADVISER = """
import compilekit as ck


def advice(options, device, machine):
    {body}


@ck.hookimpl
def describe():
    return ck.StepDescription(
        help="Advise.", options=ck.Options, effects=lambda *_: ck.effects("layout"), advice=advice
    )


@ck.hookimpl
def optimize_model(model): ...
"""


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("return []", 0, ""),
        ("return (f'{device} of {machine.cores} cores',)", 0, "steps[0].adviser: cpu of 2 cores"),
        ("yield 'slow'; yield 'very'", 0, "steps[0].adviser: very"),
        ("yield 'a\\x1b[2J'", 0, "steps[0].adviser: a\\x1b[2J"),
        ("return 'slow'", 2, "advice gave a str, not sentences"),
        ("yield 3", 2, "advice gave a list, not sentences"),
        ("return None", 2, "advice gave None, not sentences"),
        ("raise KeyError('slow')", 2, "advice raised KeyError: 'slow'"),
        ("yield 'slow'; raise SystemExit(7)", 2, "advice raised SystemExit: 7"),
        ("return advice(options, device, machine)", 2, "advice raised RecursionError"),
    ],
)
def test_a_strangers_advice_is_shown_or_the_plugin_is_named(write, here, body, code, said):
    plugin = write("adviser.py", ADVISER.format(body=body))
    words = ["plan", "sd/cpu", "--steps", "adviser{components=unet}", "--plugin", str(plugin)]
    done = run(app, words)
    assert (done.exit_code, said in done.stdout + done.stderr) == (code, True)
    assert (f"compilekit: plugin adviser ({plugin}): advice " in done.stderr) == bool(code)
    assert run(app, [*words, "--strict"]).exit_code == (code or (3 if said else 0))


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
