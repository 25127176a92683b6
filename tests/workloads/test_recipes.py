"""Every recipe that comes with compilekit plans, and says what it is for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image
from small import WORKLOADS

import compilekit as ck
from compilekit.recipe import library
from compilekit.subject.sample import sample_arguments

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", library.names())
def test_a_shipped_recipe_plans_and_describes_itself(name):
    recipe = ck.Recipe.load(name)
    assert recipe.name == name.removeprefix("any/").replace("/", "-")
    assert recipe.description.endswith(".")
    assert len(recipe.description) <= 70
    purpose = "build" if recipe.target.device == "neuron" else "apply"
    assert ck.plan(recipe, for_=purpose).steps


def test_a_file_that_a_recipe_names_lies_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = sample_arguments(ck.Recipe.load("flux/kontext"))["image"]
    with Image.open(ROOT / "recipes" / "flux" / "kontext.png") as expected:
        assert image.size == expected.size


def test_the_manual_names_the_recipes_of_each_workload():
    table = (ROOT / "docs" / "workloads.md").read_text(encoding="utf-8")
    named = {}
    for row, cells in re.findall(r"^\| ([A-Z]\d+) \| (.*)$", table, re.MULTILINE):
        words = re.findall(r"[\w-]+/[\w-]+", cells)
        named[row] = [word for word in words if word in library.names()]
    assert {row: names for row, names in named.items() if names} == WORKLOADS


def test_every_built_in_step_has_a_recipe():
    used = {step.plugin for name in library.names() for step in ck.Recipe.load(name).steps}
    assert used == set(ck.load_host().descriptions)


def test_there_are_chains_for_sd_on_cpu_and_sdxl_and_flux_on_cuda():
    chains = ("sd/cpu", "sdxl/cuda", "flux/cuda")
    assert all(len(ck.Recipe.load(name).steps) >= 4 for name in chains)
