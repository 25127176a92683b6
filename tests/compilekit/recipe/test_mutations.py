"""However a shipped recipe is mutated, it is planned or refused with a message for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import INTERNALS, KEYS, RECIPE_KEYS, RECIPE_VALUES, VALUES, mutated, tree

import compilekit as ck
from compilekit.recipe import Recipe, library

TREES = [tree(library.read(name).data) for name in library.names()]
HOST = ck.load_host()
examples = given(
    mutated(TREES, VALUES + RECIPE_VALUES, KEYS + RECIPE_KEYS), st.sampled_from(["apply", "build"])
)


def some(count: int) -> Any:
    # What is drawn depends on the recipes at hand, so examples of earlier runs would be nonsense.
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=count, database=None, suppress_health_check=checks)


def outcome(path: Path, purpose: Any) -> ck.Plan | ck.RecipeError:
    try:
        return ck.plan(path, host=HOST, for_=purpose)
    except ck.RecipeError as error:
        return error


def check(text: str, purpose: Any, folder: Path) -> None:
    path = folder / "mutated.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    result = outcome(path, purpose)
    lines = str(result).split("\n")
    if isinstance(result, ck.RecipeError):
        assert len(lines) - bool(result.advice) == len(result.problems) > 0
    else:
        json.dumps(result.to_dict())
        written = result.recipe.to_yaml()
        assert Recipe.parse(written).to_yaml() == written
    for line in lines:
        assert line.isprintable()
        assert not INTERNALS.search(line)


@some(300)
@examples
def test_a_mutated_recipe_is_planned_or_refused(tmp_path: Path, text: str, purpose: str) -> None:
    check(text, purpose, tmp_path)


@pytest.mark.full
@pytest.mark.timeout(1800)
@some(4700)
@examples
def test_many_mutated_recipes_are_planned_or_refused(
    tmp_path: Path, text: str, purpose: str
) -> None:
    check(text, purpose, tmp_path)
