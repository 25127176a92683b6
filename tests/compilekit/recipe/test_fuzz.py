"""Whatever the text, reading it gives a recipe or a `RecipeError`, and never a traceback."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from compilekit.errors import RecipeError
from compilekit.recipe import Recipe
from compilekit.recipe.text import steps_from_text

RECIPE = """\
compilekit: 1
name: &name sd
description: >-
  two
  lines
target: {device: cpu}
model: {source: "a/b", dtype: float32, components: {unet: c}}
sample: {prompt: 'a "b"', seed: 3, x: [1, -2.5e3, .inf, ~, *name]}
steps:
  - channels_last: {components: [unet, vae.decode]}
  - torch_compile:
      components: unet   # one
      mode: max-autotune
      budget: 0.5
  - plain
verify: {max_relative_error: 0.03, min_ssim: 0.5}
shapes: [{height: 512}]
"""
STEPS = "a, b{x=[1, \"}\"], y={k: 'v'}}, c{components=unet, budget=1, z=max-autotune}"

pieces = st.sampled_from(
    [
        *"{}[],:#&*!|>'\"%@`-?\\\t\n\r \0~=<.0",
        *("\n  ", ": ", "- ", "---\n", "...\n", "!!int ", "!!set ", "!<", "<<: *name\n", "&name "),
        *("%YAML 1.1\n", "null", "[" * 50, "\u2028", "\x85", "\ufeff", "é", "\ud800", "1_0", "0x"),
        *("extends: x.yaml\n", "? ", "\\x", '"\\U', '"\\x1b"', '"\\n": ', "steps: [", "1" * 400),
    ]
)
edits = st.lists(
    st.tuples(st.integers(min_value=0), st.integers(0, 12), pieces | st.text(max_size=4)),
    min_size=1,
    max_size=6,
)


def edited(text: str, changes: list[tuple[int, int, str]]) -> str:
    for at, removed, added in changes:
        start = at % (len(text) + 1)
        text = text[:start] + added + text[start + removed :]
    return text


def outcome(read: Callable[[str], object], text: str) -> object:
    try:
        return read(text)
    except RecipeError as error:
        return error


def assert_readable(error: object) -> None:
    """One line for each problem, which a terminal can show."""
    assert isinstance(error, RecipeError)
    lines = str(error).split("\n")
    assert len(lines) == len(error.problems) > 0
    assert all(line.isprintable() for line in lines)


@settings(max_examples=200)
@given(edits)
def test_a_mutated_recipe_is_read_or_refused(changes: list[tuple[int, int, str]]) -> None:
    read = outcome(Recipe.parse, edited(RECIPE, changes))
    if isinstance(read, Recipe):
        assert Recipe.parse(read.to_yaml()).to_yaml() == read.to_yaml()
    else:
        assert_readable(read)


@settings(max_examples=200)
@given(edits)
def test_a_mutated_list_of_steps_is_read_or_refused(changes: list[tuple[int, int, str]]) -> None:
    read = outcome(steps_from_text, edited(STEPS, changes))
    if isinstance(read, RecipeError):
        assert_readable(read)
