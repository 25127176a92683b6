"""The JSON Schema by which editors complete and check recipes."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from compilekit.recipe.json_schema import recipe_schema
from compilekit.recipe.source import read_text
from compilekit.steps import Options

jsonschema = pytest.importorskip("jsonschema")


class Nothing(Options):
    pass


class First(Options):
    class Mode(Options):
        level: int = 0

    mode: Mode = Mode()


class Second(Options):
    class Mode(Options):
        name: Literal["a", "b"] = "a"

    mode: Mode = Mode()
    folder: str


class Tree(Options):
    children: tuple[Tree, ...] = ()


SCHEMA = recipe_schema(
    {"nothing": Nothing, "first": First, "second": Second, "tree": Tree},
    {"nothing": "Does nothing.", "first": "Comes first."},
)
HEAD = "compilekit: 1\ntarget: {device: cpu}\n"


def is_valid(text: str) -> bool:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    return bool(validator.is_valid(read_text_as_written(text)))


def read_text_as_written(text: str) -> dict[str, Any]:
    """The data as an editor sees it: `extends:` is not followed."""
    data = read_text(text.replace("extends:", "EXTENDS:")).data
    return {key.lower(): value for key, value in data.items()}


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize(
    "text",
    [
        HEAD,
        "extends: base.yaml",
        HEAD + "sample: {prompt: a, seed: 3}",
        HEAD + "model: {inputs: {x: {shape: [1, 2], dtype: int64}}}",
        HEAD + "steps: [nothing, first]",
        HEAD + "steps: [{nothing: }, {first: {mode: {level: 3}}}]",
        HEAD + "steps: [{second: {folder: x, mode: {name: b}}}]",
        HEAD + "steps: [{tree: {children: [{children: []}]}}]",
        HEAD + "steps: [{nothing: {components: unet, budget: 0.5, allow_no_match: true}}]",
        HEAD + "steps: [{nothing: {components: [unet, vae.decode]}}]",
        HEAD + "verify: {max_relative_error: 0.1, reference: as_loaded}\nshapes: [{height: 8}]",
    ],
)
def test_a_right_recipe_fits_the_schema(text: str) -> None:
    assert is_valid(text)


@pytest.mark.parametrize(
    "text",
    [
        "compilekit: 1",
        "target: {device: cpu}",
        HEAD + "zebra: 1",
        HEAD + "sample: {seed: -1}",
        HEAD + "steps: [zebra]",
        HEAD + "steps: [second]",
        HEAD + "steps: [{second: }]",
        HEAD + "steps: [{nothing: {x: 1}}]",
        HEAD + "steps: [{nothing: , first: }]",
        HEAD + "steps: [{first: {mode: {name: a}}}]",
        HEAD + "steps: [{second: {folder: x, mode: {level: 1}}}]",
        HEAD + "steps: [{tree: {children: [{x: 1}]}}]",
        HEAD + "steps: [{nothing: {components: []}}]",
        HEAD + "steps: [{nothing: {components: u-net}}]",
        HEAD + "steps: [{nothing: {budget: 0}}]",
        HEAD + "verify: {min_ssim: 2}",
        HEAD + "shapes: [{height: 0}]",
    ],
)
def test_a_wrong_recipe_does_not(text: str) -> None:
    assert not is_valid(text)


def test_the_help_of_a_step_is_its_description() -> None:
    steps = SCHEMA["properties"]["steps"]["items"]["oneOf"]
    assert [step.get("description") for step in steps] == [
        None,
        "Does nothing.",
        "Comes first.",
        None,
        None,
        "One of these steps; null stands for none. For `compilekit tune`.",
    ]


def test_choices_stand_for_steps_and_for_values() -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    name = next(iter(SCHEMA["properties"]["steps"]["items"]["oneOf"][0]["enum"]))
    head = {"compilekit": 1, "target": {"device": "cpu"}}
    assert validator.is_valid({**head, "steps": [{"choices": [name, {name: None}, None]}]})
    assert not validator.is_valid({**head, "steps": [{"choices": []}]})
    assert not validator.is_valid({**head, "steps": [{"choices": ["no such step"]}]})


def test_without_plugins_there_are_no_steps() -> None:
    schema = recipe_schema({}, {})
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid({"extends": "x.yaml", "steps": []})
    assert not validator.is_valid({"extends": "x.yaml", "steps": ["a"]})
