"""The compact text form of steps, both ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compilekit.errors import Location, RecipeError, UsageError
from compilekit.recipe import Recipe, StepEntry, Target
from compilekit.recipe.parts import RESERVED
from compilekit.recipe.text import document_of_steps, steps_from_text, steps_to_text

FORM = (
    "channels_last, torchao_int8{min_features=512}, "
    "torch_compile{components=[unet, vae.decode], mode=max-autotune, fullgraph=true}"
)
STEPS = [
    StepEntry(plugin="channels_last", index=0),
    StepEntry(plugin="torchao_int8", options={"min_features": 512}, index=1),
    StepEntry(
        plugin="torch_compile",
        components=("unet", "vae.decode"),
        options={"mode": "max-autotune", "fullgraph": True},
        index=2,
    ),
]

NO_COMPONENT = 'is not a component: write "unet", "vae.decode" or "transformer.blocks.0"'

text = st.text(st.characters(exclude_categories=["Cs"]))
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=10,
)
options = st.dictionaries(text.filter(lambda key: key not in RESERVED), plain, max_size=4)
entries = st.builds(
    StepEntry,
    plugin=text.filter(bool),
    components=st.lists(st.sampled_from(["unet", "vae.decode", "a.0"]), unique=True).map(tuple),
    allow_no_match=st.booleans(),
    budget=st.none() | st.floats(min_value=1e-9, max_value=10),
    options=options,
)
lists_of_steps = st.lists(entries, max_size=4).map(
    lambda steps: [step.model_copy(update={"index": i}) for i, step in enumerate(steps)]
)


def test_the_form_is_read() -> None:
    assert steps_from_text(FORM) == STEPS


def test_the_form_is_written() -> None:
    assert steps_to_text(STEPS) == FORM


def test_space_and_line_breaks_do_not_matter() -> None:
    assert steps_from_text("\n a { x = 1 ,\n y = [ 2 ] }\n,b{}\n") == [
        StepEntry(plugin="a", options={"x": 1, "y": [2]}, index=0),
        StepEntry(plugin="b", index=1),
    ]


@pytest.mark.parametrize("text", ["", " \n"])
def test_no_text_is_no_steps(text: str) -> None:
    assert steps_to_text([]) == ""
    with pytest.raises(RecipeError, match="<steps>:1:1: there is no step here: name one"):
        steps_from_text(text)


def test_values_are_yaml() -> None:
    written = """a{n=null, s="a, b}", q='it''s', t=it's, u=that's,
        d={k: [1, "}"]}, f=1e3, b=no, w=two words}"""
    assert steps_from_text(written)[0].options == {
        "n": None,
        "s": "a, b}",
        "q": "it's",
        "t": "it's",
        "u": "that's",
        "d": {"k": [1, "}"]},
        "f": 1000.0,
        "b": "no",
        "w": "two words",
    }


def test_strings_that_would_be_read_as_something_else_are_quoted() -> None:
    values = ["", "no", "true", "5", "1.5", ".inf", "a, b", "a: b", "#", "-", "=", "\n", "é\x07"]
    step = StepEntry(plugin="a", options={"true": values, "two words": 1})
    assert steps_to_text([step]) == (
        '"a"'.strip('"')
        + '{"true"=["", "no", "true", "5", "1.5", ".inf", "a, b", "a: b", "#", "-", "=", "\\n", '
        '"é\\x07"], "two words"=1}'
    )


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("a b", '1:3: expected "," between steps'),
        ("a,", "1:3: expected the name of a step"),
        ("{x=1}", "1:1: expected the name of a step"),
        ("a{", "1:3: expected an option"),
        ("a{x", '1:4: expected "=" after x'),
        ("a{x=", "1:5: x has no value"),
        ("a{x=,y=1}", "1:5: x has no value"),
        ("a{x=1", '1:6: expected "," or "}" after an option'),
        ("a{x=1 y=2}", '1:8: a "," is missing before this option, or quotes around the text'),
        ("a{x=1, x=2}", "1:8: x is given twice"),
        ("a{x=[1}", '1:7: a "," or the closing "]" is missing'),
        ('a,\nb{x="\\q"}', "2:7: this escape is not known in a double-quoted string"),
        (
            "a{components=['!']}",
            f'1:15: steps[0].a.components[0]: "!" {NO_COMPONENT}',
        ),
    ],
)
def test_what_is_wrong_is_placed_in_the_text(written: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        steps_from_text(written)
    assert str(caught.value) == f"<steps>:{message}"


def test_every_option_has_a_place_in_the_text() -> None:
    document = document_of_steps("a,\n  b{x=1,\n y=[2,\n {z: 3}]}", "cpu", {})
    located = {
        path: (document.locate(path, key=True), document.locate(path))
        for path in [("steps", 1), ("steps", 1, "b", "x"), ("steps", 1, "b", "y", 1, "z")]
    }
    assert located == {
        ("steps", 1): (Location("<steps>", 2, 3), Location("<steps>", 2, 3)),
        ("steps", 1, "b", "x"): (Location("<steps>", 2, 5), Location("<steps>", 2, 7)),
        ("steps", 1, "b", "y", 1, "z"): (Location("<steps>", 4, 3), Location("<steps>", 4, 6)),
    }


def test_a_sample_that_no_recipe_can_hold_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        Recipe.from_steps("a", sample={"generator": {1, 2}})
    assert str(caught.value) == (
        "a recipe holds plain values (numbers, strings, lists, mappings), not {1, 2}"
    )


@given(lists_of_steps.filter(bool))
def test_whatever_is_written_is_read_back(steps: list[StepEntry]) -> None:
    assert steps_from_text(steps_to_text(steps)) == steps


@given(lists_of_steps, st.dictionaries(text.filter(lambda key: key != "seed"), plain), text)
def test_a_recipe_that_is_written_as_yaml_is_read_back(
    steps: list[StepEntry], sample: dict[str, object], description: str
) -> None:
    recipe = Recipe(
        compilekit=1,
        target=Target(device="cpu"),
        steps=tuple(steps),
        sample=sample,
        description=description,
    )
    assert Recipe.parse(recipe.to_yaml()) == recipe
