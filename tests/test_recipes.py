"""Every recipe that comes with compilekit plans, and says what it is for."""

from __future__ import annotations

import pytest

import compilekit as ck
from compilekit.recipe import library


@pytest.mark.parametrize("name", library.names())
def test_a_shipped_recipe_plans_and_describes_itself(name):
    recipe = ck.Recipe.load(name)
    assert recipe.name == name
    assert recipe.description.endswith(".")
    purpose = "build" if recipe.target.device == "neuron" else "apply"
    assert ck.plan(recipe, for_=purpose).steps


def test_every_built_in_step_has_a_recipe():
    used = {step.plugin for name in library.names() for step in ck.Recipe.load(name).steps}
    assert used == set(ck.load_host().descriptions)


def test_there_are_chains_for_sd_on_cpu_and_sdxl_and_flux_on_cuda():
    chains = ("sd15-cpu", "sdxl-cuda", "flux-cuda")
    assert all(len(ck.Recipe.load(name).steps) >= 4 for name in chains)
