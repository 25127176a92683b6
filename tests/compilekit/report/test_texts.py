"""What results look like in Python: `print` shows the table, `repr` one short line."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console
from support import SAMPLE

import compilekit as ck
from compilekit.report.table import print_report
from compilekit.testing import tiny_pipeline

STEPS = ck.Recipe.from_steps("channels_last{components=[unet, vae]}", sample=SAMPLE)
NET = ck.Recipe.from_steps("precision{dtype=bfloat16}")
INPUTS = {"input": torch.linspace(0, 1, 8).reshape(1, 8)}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One result of every verb."""
    net = {"inputs": INPUTS, "progress": False}
    target = tmp_path_factory.mktemp("texts") / "bundle"
    applied = ck.apply(STEPS, tiny_pipeline("sd"), progress=False)
    built = ck.build(STEPS, tiny_pipeline("sd"), target, cache=False, progress=False)
    strict = ck.Recipe.from_steps("precision{dtype=bfloat16, budget=1e-9}")
    return {
        "plan": ck.plan(STEPS),
        "applied": applied,
        "report": applied.report,
        "built": built,
        "loaded": ck.bundle_of(ck.load(target, progress=False)),
        "explanation": ck.explain(NET, torch.nn.Linear(8, 8), **net),
        "bench": ck.bench(NET, torch.nn.Linear(8, 8), **net),
        "blame": ck.bisect(strict, lambda: torch.nn.Linear(8, 8), **net),
        "batches": ck.Batches((ck.BatchTrial(1, seconds=1.0),), 1, "images"),
    }


def test_each_result_is_one_short_line(results):
    for name, result in results.items():
        text = repr(result)
        assert len(text.splitlines()) == 1, name
        assert len(text.replace(str(results["built"].path), "")) < 120, text
        assert text[0] + text[-1] == "<>", text


def test_print_shows_the_table_of_the_command(results):
    report, printed = results["report"], io.StringIO()
    print_report(report, Console(file=printed))
    assert str(report) == printed.getvalue().rstrip("\n")
    assert "channels_last: changed" in str(report)
    assert len(str(results["plan"]).splitlines()) > 1


def test_names_in_a_text_move_no_cursor(results):
    named = results["report"].model_copy(update={"recipe": "a\x1b[2J"})
    assert "\x1b" not in repr(named) + str(named)


def test_completion_offers_the_public_names_alone():
    names = dir(ck)
    assert {"apply", "build", "load", "Recipe"} <= set(names)
    assert not {"base", "errors", "cli", "Path", "torch", "annotations"} & set(names)
    for name in names:
        getattr(ck, name)
