"""`bench`: a recipe's result, timed at one batch after the other."""

from __future__ import annotations

import pytest
import torch
from support import SAMPLE, Twice

import compilekit as ck
from compilekit.testing import tiny_pipeline

EAGER = "torch_compile{components=unet, backend=eager, mode=default}"


@pytest.mark.full
def test_a_pipeline_is_measured_at_each_batch():
    recipe = ck.Recipe.from_steps(EAGER, sample=SAMPLE)
    found = ck.bench(recipe, tiny_pipeline("sd"), batches=(1, 3), runs=2, progress=False)
    assert [(row.batch, row.images) for row in found.rows] == [(1, 1), (3, 3)]
    for row in found.rows:
        assert 0 < row.least <= row.seconds <= row.most
        assert row.first > 0
        assert row.peak > 0
        assert row.rate == pytest.approx(row.images / row.seconds)
    assert found.latency == found.rows[0].seconds
    assert (found.unit, found.runs, found.device) == ("images", 2, "cpu")
    assert found.environment["torch"] == torch.__version__
    lines = str(found).splitlines()
    assert lines[0].split()[:2] == ["batch", "images"]
    assert lines[-1].startswith("steps on cpu: medians of 2 runs; steps and their verification")
    assert lines[-1].endswith(
        "; not compared with anything, since another process cannot load StableDiffusionPipeline: "
        "pass a folder, a hub id, or a function from a module"
    )


def test_a_plain_module_is_measured_by_rows():
    recipe = ck.Recipe.from_steps("precision{dtype=bfloat16}")
    module = Twice()
    found = ck.bench(
        recipe, module, batches=[4], runs=1, inputs={"x": torch.ones(2, 8)}, progress=False
    )
    assert [(row.batch, row.images) for row in found.rows] == [(4, 4)]
    assert (found.unit, found.latency) == ("samples", None)


def test_a_broken_budget_ends_it_before_anything_is_timed():
    recipe = ck.Recipe.from_steps("precision{dtype=bfloat16, budget=1e-9}", sample=SAMPLE)
    with pytest.raises(ck.VerificationError):
        ck.bench(recipe, tiny_pipeline("sd"), progress=False)


@pytest.mark.parametrize("wrong", [{"batches": []}, {"batches": [0]}, {"runs": 0}])
def test_nothing_to_measure_is_an_error(wrong):
    with pytest.raises(
        ck.UsageError, match="batches and runs must be whole numbers, 1 at the least"
    ):
        ck.bench("sd/cpu", **wrong)
