"""pydantic's errors as sentences: what the planner shows for a step's options."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, field_validator, model_validator

from compilekit.errors import Location
from compilekit.recipe.messages import guess, shown, validated
from compilekit.steps import Options

if TYPE_CHECKING:
    from compilekit.recipe.nodes import KeyPath

MODES = "one of default, max-autotune, max-autotune-no-cudagraphs"


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Inner(Options):
    size: int = 1


class Point(Options):
    x: int
    y: int


class Tiled(Options):
    kind: Literal["tiled"]
    rows: int = 1


class Whole(Options):
    kind: Literal["whole"]


class Example(Options):
    mode: Literal["default", "max-autotune", "max-autotune-no-cudagraphs"] = "default"
    count: Annotated[int, Field(ge=1, le=9)] = 1
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    even: Annotated[int, Field(multiple_of=2)] = 2
    fullgraph: bool = False
    name: str = "x"
    code: Annotated[str, Field(pattern="^[a-z]+$", max_length=3)] = "a"
    names: tuple[str, ...] = ()
    pair: tuple[int, int] = (1, 2)
    table: dict[str, int] = Field(default_factory=dict)
    size: int | Literal["auto", "tiny"] | None = None
    either: list[int] | Inner | str = "x"
    shape: Point | Inner | int = 0
    tagged: Annotated[Tiled | Whole, Field(discriminator="kind")] = Whole(kind="whole")
    inner: Inner = Inner()
    inners: dict[str, Inner] = Field(default_factory=dict)
    color: Color = Color.RED
    odd: int = 1

    @field_validator("odd")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            message = f"must be odd, and {value} is even"
            raise ValueError(message)
        return value


def locate(path: KeyPath, *, key: bool = False) -> Location:
    return Location("/".join(map(str, path)), 1, int(key))


def said(data: dict[str, Any], model: type[BaseModel] = Example) -> list[str]:
    _, problems = validated(
        model,
        data,
        prefix_path=("steps", 2, "x"),
        prefix_key="steps[2].x",
        locate=locate,
        known=("components",),
    )
    return [f"{problem.key}: {problem.message}" for problem in problems]


def test_what_is_right_is_returned() -> None:
    data = {"names": ["a"], "ratio": 0.25, "size": "auto", "color": "blue", "either": {"size": 2}}
    value, problems = validated(Example, data, prefix_path=(), prefix_key="", locate=locate)
    assert problems == []
    assert value == Example(
        names=("a",), ratio=0.25, size="auto", color=Color.BLUE, either=Inner(size=2)
    )


def test_an_integer_is_a_number() -> None:
    class Number(Options):
        value: float

    assert validated(Number, {"value": 3}, prefix_path=(), prefix_key="", locate=locate)[0] == (
        Number(value=3.0)
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "mode",
            "max",
            f'"max" is not {MODES}. Did you mean "max-autotune"?',
        ),
        (
            "mode",
            "zzz",
            f'"zzz" is not {MODES}',
        ),
        ("count", "abc", '"abc" is not an integer'),
        ("count", "5", '"5" is not an integer. Write it without quotes'),
        ("count", True, "true is not an integer"),
        ("count", 1.5, "1.5 is not an integer"),
        ("count", None, "has no value; must be an integer"),
        ("count", [1], "a list is not an integer"),
        ("count", 0, "must be at least 1, not 0"),
        ("count", 10, "must be at most 9, not 10"),
        ("ratio", 0, "must be greater than 0, not 0"),
        ("ratio", 1, "must be less than 1, not 1"),
        ("ratio", "0.5", '"0.5" is not a number. Write it without quotes'),
        ("ratio", True, "true is not a number"),
        ("even", 3, "must be a multiple of 2, not 3"),
        ("odd", 4, "must be odd, and 4 is even"),
        (
            "fullgraph",
            "No",
            '"No" is not true or false. YAML 1.2 reads it as a string: write false',
        ),
        ("fullgraph", "true", '"true" is not true or false. Write it without quotes'),
        ("fullgraph", 1, "1 is not true or false"),
        ("name", 5, "5 is not a string. Put it in quotes"),
        ("name", {}, "a mapping is not a string"),
        ("code", "A", "String should match pattern '^[a-z]+$'"),
        ("code", "abcd", "String should have at most 3 characters"),
        ("names", "a", '"a" is not a list'),
        ("table", [], "a list is not a mapping"),
        ("color", "rde", '"rde" is not one of red, blue. Did you mean "red"?'),
        ("size", "atuo", '"atuo" is not an integer or one of auto, tiny. Did you mean "auto"?'),
        ("either", 1.5, "1.5 is not a list, a mapping or a string. Put it in quotes"),
        ("inner", 3, "3 is not a mapping"),
        ("compnents", 1, 'unknown key "compnents". Did you mean "components"?'),
        ("fulgraph", 1, 'unknown key "fulgraph". Did you mean "fullgraph"?'),
    ],
)
def test_a_wrong_value_is_one_sentence(key: str, value: object, message: str) -> None:
    assert said({key: value}) == [f"steps[2].x.{key}: {message}"]


@pytest.mark.parametrize(
    ("data", "messages"),
    [
        ({"names": ["a", 3]}, ["names[1]: 3 is not a string. Put it in quotes"]),
        ({"table": {"a": "b"}}, ['table.a: "b" is not an integer']),
        ({"pair": [1]}, ["pair[1]: required, and missing"]),
        ({"inner": {"szie": 1}}, ['inner.szie: unknown key "szie". Did you mean "size"?']),
        (
            {"inners": {"size": {"szie": 1}}},
            ['inners.size.szie: unknown key "szie". Did you mean "size"?'],
        ),
        ({"either": ["x", 1]}, ['either[0]: "x" is not an integer']),
        ({"either": {"size": "x"}}, ['either.size: "x" is not an integer']),
        ({"shape": {"size": "x"}}, ['shape.size: "x" is not an integer']),
        ({"shape": {"x": 1}}, ["shape.y: required, and missing"]),
        ({"tagged": {"kind": "tiled", "rows": "x"}}, ['tagged.rows: "x" is not an integer']),
        (
            {"tagged": {"kind": "whole", "rows": 1}},
            ['tagged.rows: unknown key "rows". Known keys: kind'],
        ),
        (
            {"inner": {"components": 1}},
            ['inner.components: unknown key "components". Known keys: size'],
        ),
    ],
)
def test_a_value_inside_another_is_named_in_full(data: dict[str, Any], messages: list[str]) -> None:
    assert said(data) == [f"steps[2].x.{message}" for message in messages]


def test_a_fault_of_the_whole_is_that_of_the_prefix() -> None:
    class Both(Options):
        a: int = 0
        b: int = 0

        @model_validator(mode="after")
        def _not_both(self) -> Both:
            if self.a and self.b:
                message = "a and b\n    exclude each other"
                raise ValueError(message)
            return self

    assert said({"a": 1, "b": 1}, Both) == ["steps[2].x: a and b exclude each other"]


def test_problems_stand_at_the_value_and_at_an_unknown_key() -> None:
    _, problems = validated(
        Example, {"count": "a", "zz": 1}, prefix_path=("s",), prefix_key="s", locate=locate
    )
    assert [str(problem.location) for problem in problems] == ["s/count:1:0", "s/zz:1:1"]


def test_near_names_are_found_whatever_their_case_or_ending() -> None:
    assert guess("CUDA", ["cpu", "cuda"]) == '. Did you mean "cuda"?'
    assert guess("max", ["default", "max-autotune"]) == '. Did you mean "max-autotune"?'
    assert guess("x", ["xylophone"]) == ""
    assert guess("zebra", []) == ""


def test_values_are_shown_short_and_as_yaml() -> None:
    values = [None, True, 1.5, float("-inf"), float("nan"), "a\n", {}, (), object(), "x" * 99]
    assert [shown(value) for value in values] == [
        "null",
        "true",
        "1.5",
        "-.inf",
        ".nan",
        '"a\\n"',
        "a mapping",
        "a list",
        "a value of type object",
        '"' + "x" * 55 + '..."',
    ]


def test_a_message_stays_on_its_line_whatever_the_value() -> None:
    assert said({"count": "a\x1b[2J\u2028"}) == [
        'steps[2].x.count: "a\\u001b[2J\\u2028" is not an integer'
    ]
    (message,) = said({"a\nb": 1})
    assert message.startswith('steps[2].x.a\\nb: unknown key "a\\nb". Known keys: ')
