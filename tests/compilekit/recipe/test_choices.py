"""`choices:` in recipes: what they make, and where each part was written."""

from __future__ import annotations

import pytest

import compilekit as ck
from compilekit.recipe import check
from compilekit.recipe.choices import MOST, alternatives, chosen
from compilekit.recipe.source import read_text

MANY = list(range(30))
HEAD = "compilekit: 1\ntarget: {device: cpu}\nsteps:\n"
STEPS = """\
  - choices:
    - channels_last: {components: [unet]}
    - qkv_fusion: {components: [unet]}
    - null
  - torch_compile: {weights: {choices: [shared, packed]}, dynamic: {choices: [true, false]}}
"""


def written(steps):
    return read_text(HEAD + steps, "mine.yaml")


def test_a_step_has_its_ways_and_an_option_too():
    first, second = alternatives(written(STEPS))
    assert [way.item for way in first] == [
        {"channels_last": {"components": ["unet"]}},
        {"qkv_fusion": {"components": ["unet"]}},
        None,
    ]
    bodies = [way.item["torch_compile"] for way in second]
    assert [(b["weights"], b["dynamic"]) for b in bodies] == [
        ("shared", True),
        ("shared", False),
        ("packed", True),
        ("packed", False),
    ]


def test_what_is_taken_keeps_its_place():
    document = written(STEPS)
    ways = alternatives(document)
    recipe = check(chosen(document, [ways[0][2], ways[1][3]]))[0].recipe
    assert [step.plugin for step in recipe.steps] == ["torch_compile"]
    assert str(recipe.location("steps", 0, "torch_compile", "weights")) == "mine.yaml:8:49"
    recipe = check(chosen(document, [ways[0][1], ways[1][0]]))[0].recipe
    assert str(recipe.location("steps", 0, "qkv_fusion", "components")) == "mine.yaml:6:32"


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ("  - choices: []\n", "mine.yaml:4:14: steps[0].choices: a list is no list of choices"),
        ("  - choices: 3\n", "mine.yaml:4:14: steps[0].choices: 3 is no list of choices"),
        (
            "  - attention: {slicing: {choices: {}}}\n",
            "steps[0].attention.slicing.choices: a mapping is no list of choices",
        ),
        (
            f"  - attention: {{slicing: {{choices: {list(range(MOST + 1))}}}}}\n",
            f"more than {MOST} choices",
        ),
        (
            f"  - choices: [a: {{b: {{choices: {MANY}}}, c: {{choices: {MANY}}}}}]\n",
            f"more than {MOST} choices",
        ),
    ],
)
def test_what_is_no_list_of_choices_is_told(steps, said):
    with pytest.raises(ck.RecipeError) as raised:
        alternatives(written(steps))
    assert said in str(raised.value)


def test_other_commands_refuse_choices_with_their_places():
    with pytest.raises(ck.RecipeError) as raised:
        ck.Recipe.parse(HEAD + STEPS, file="mine.yaml")
    text = "has choices, of which `compilekit tune` takes the fastest; here, write one of them"
    assert str(raised.value).splitlines() == [
        f"mine.yaml:4:5: steps[0].choices: {text}",
        f"mine.yaml:8:21: steps[1].torch_compile.weights: {text}",
        f"mine.yaml:8:59: steps[1].torch_compile.dynamic: {text}",
    ]


TUNED = """
compilekit: 1
target: {device: cpu}
steps: []
tuned: {cpu: An old one, cores: 64, numbers: [bfloat16], speedup: 1.5, versions: {torch: "2.0"}}
"""


def test_a_recipe_that_was_tuned_elsewhere_says_so():
    recipe = ck.Recipe.parse(TUNED)
    (advice,) = ck.plan(recipe).advice
    assert advice.startswith(
        "the recipe was tuned on another kind of machine (64 cores of An old one with bfloat16; "
    )
    there = ck.Machine(
        system="linux", cpu="An old one", cpu_flags=("avx512_bf16",), cores=64, memory=1
    )
    assert ck.plan(recipe, machine=there).advice == ()
    assert ck.Recipe.parse(recipe.to_yaml()) == recipe
    plain = recipe.model_copy(update={"tuned": None})
    assert ck.plan(plain).digest == ck.plan(recipe).digest
