"""The example on each step's page does on a small model what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from adapters import FILE, adapter
from small import EAGER, small_example

import compilekit as ck
from compilekit.recipe import library
from compilekit.testing import tiny_pipeline

PAGES = sorted((Path(__file__).parents[2] / "docs" / "steps").glob("*.md"))
OPTIONS = {
    "torch_compile": EAGER,
    "torchao": {"min_features": 16},
    "torchao_int8": {"min_features": 16},
}


ONLY_HERE = ("lora", "memory", "torchao")
"""The others' examples are like recipes of workloads; `make test-all` runs these too."""


def pages() -> list[Any]:
    marked = {True: (), False: pytest.mark.full}
    return [
        pytest.param(page, id=page.stem, marks=marked[page.stem in ONLY_HERE])
        for page in PAGES
        # The others are run over stand-ins, in files of their own.
        if "cpu" in (ck.load_host().describe(page.stem).targets or {"cpu"})
    ]


def example(page: Path) -> str:
    """The last recipe of a page."""
    return re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)[-1]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples name: an adapter, and a VAE where the hub's would be."""
    root = tmp_path_factory.mktemp("files")
    tiny_pipeline("sd", seed=5).vae.save_pretrained(root / "stabilityai" / "sd-vae-ft-mse")
    (adapter(root / "styles") / FILE).rename(root / "styles" / "oil.safetensors")
    return root


@pytest.mark.usefixtures("process_as_before")
@pytest.mark.parametrize("page", pages())
def test_the_example_of_a_page_runs_and_is_right(page, files, monkeypatch):
    monkeypatch.chdir(files)
    recipe = small_example(example(page), OPTIONS)
    assert page.stem in {step.plugin for step in recipe.steps}
    done = ck.apply(recipe, tiny_pipeline("sd"), progress=False)
    assert {m.entry: m.error for m in done.report.final}["unet"] < 0.15
    assert all(any(row.matched.values()) for row in done.report.steps)


def test_every_page_shows_a_recipe_that_is_shipped_or_says_more():
    shipped = {step.plugin for name in library.names() for step in ck.Recipe.load(name).steps}
    assert {page.stem for page in PAGES} == shipped
