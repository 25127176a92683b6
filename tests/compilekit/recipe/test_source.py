"""Reading recipe files: what is refused, where it says so, and what `extends:` does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from compilekit.errors import Location, RecipeError, UsageError
from compilekit.plan.plan import plan
from compilekit.recipe import Recipe
from compilekit.recipe.nodes import MAX_DEPTH, MAX_NUMBER, MAX_VALUES
from compilekit.recipe.source import KEYS, MAX_BYTES, read_file, read_text

NO_TAG = "not allowed: a recipe is plain data"


def refused(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read_text(text, "r.yaml")
    return str(caught.value)


def refused_file(path: Path, base: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        read_file(path)
    return str(caught.value).replace(f"{base}/", "")


def test_scalars_are_those_of_yaml_1_2() -> None:
    text = """
        strings: [no, on, Yes, 1_000, 0b1, 2020-01-01, "5", 'true', =, <<, 1:30, .5.1]
        numbers: [1, -2, 010, 0o17, 0x1F, 1.5, .5, 1e3, -1.5E-2, .inf, -.Inf]
        others: [true, False, null, ~, ""]
        tagged: [!!str 5, !!int "6", !!float 7, !!bool yes]
        empty:
    """
    assert read_text(text).data == {
        "strings": [
            *("no", "on", "Yes", "1_000", "0b1", "2020-01-01", "5", "true"),
            *("=", "<<", "1:30", ".5.1"),
        ],
        "numbers": [1, -2, 10, 15, 31, 1.5, 0.5, 1000.0, -0.015, float("inf"), float("-inf")],
        "others": [True, False, None, None, ""],
        "tagged": ["5", 6, 7.0, "yes"],
        "empty": None,
    }


def test_a_yaml_1_1_directive_does_not_change_what_no_means() -> None:
    assert read_text("%YAML 1.1\n---\na: [no, 1_0]").data == {"a": ["no", "1_0"]}


def test_an_alias_stands_for_what_was_named_even_where_the_name_is_used_again() -> None:
    text = "a: &x [1, 2]\nb: *x\nc: &x 3\nd: *x\n"
    assert read_text(text).data == {"a": [1, 2], "b": [1, 2], "c": 3, "d": 3}


def test_every_key_and_value_has_a_place() -> None:
    document = read_text("a:\n  - b: 1\n    c: [x, {d: 2}]\n", "r.yaml")
    places = {
        path: (str(document.locate(path, key=True)), str(document.locate(path)))
        for path in document.places
    }
    assert places == {
        (): ("r.yaml:1:1", "r.yaml:1:1"),
        ("a",): ("r.yaml:1:1", "r.yaml:2:3"),
        ("a", 0): ("r.yaml:2:5", "r.yaml:2:5"),
        ("a", 0, "b"): ("r.yaml:2:5", "r.yaml:2:8"),
        ("a", 0, "c"): ("r.yaml:3:5", "r.yaml:3:8"),
        ("a", 0, "c", 0): ("r.yaml:3:9", "r.yaml:3:9"),
        ("a", 0, "c", 1): ("r.yaml:3:12", "r.yaml:3:12"),
        ("a", 0, "c", 1, "d"): ("r.yaml:3:13", "r.yaml:3:16"),
    }


def test_what_is_missing_is_placed_at_the_nearest_thing_around_it() -> None:
    document = read_text("a:\n  b: 1\n", "r.yaml")
    assert document.locate(("a", "x", 0)) == Location("r.yaml", 2, 3)
    assert document.locate(("x",), key=True) == Location("r.yaml", 1, 1)


def test_a_value_left_out_is_placed_at_its_key() -> None:
    assert read_text("a: 1\nb:\n\nc: 2\n", "r.yaml").locate(("b",)) == Location("r.yaml", 2, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "r.yaml:1:1: the recipe is empty"),
        ("# nothing\n", "r.yaml:1:1: the recipe is empty"),
        ("\n- a\n", "r.yaml:2:1: a recipe is a mapping (key: value), not a list"),
        ("hello", "r.yaml:1:1: a recipe is a mapping (key: value), not a single value"),
        ("a:\n  b: 1\n  b: 2", "r.yaml:3:3: a.b: duplicate key; first given on line 2"),
        ("a:\n\t- b", "r.yaml:2:1: a tab cannot indent or begin a value: use spaces"),
        ("a: @x", "r.yaml:1:4: '@' cannot begin a value: put it in quotes"),
        (
            "a: b: c",
            'r.yaml:1:5: a ":" cannot stand here: check the indentation, or put the text in quotes',
        ),
        ("a: [1, 2", 'r.yaml:1:9: a "," or the closing "]" is missing'),
        ("a: {b: 1]", 'r.yaml:1:9: a "," or the closing "}" is missing'),
        ("a: 'x", "r.yaml:1:4: the quote that opens here is never closed"),
        ("a: 1\nb\n", 'r.yaml:2:1: the ":" after this key is missing'),
        ("- a\nb: 1", "r.yaml:2:1: this does not fit the lines above: check the indentation"),
        ("[a]\nname = 1", 'r.yaml:2:1: this is not in the form "key: value"'),
        ("a: *x", "r.yaml:1:4: there is no anchor &x before this alias"),
        ("a: 1\n---\nb: 2", "r.yaml:2:1: a recipe is one YAML document; a second one begins here"),
        ('a: "\\q"', "r.yaml:1:6: this escape is not known in a double-quoted string"),
        ('a: "\\UFFFFFFFF"', "r.yaml: not valid YAML"),
        ('a: "\\ud800"', "r.yaml:1:4: a: half a surrogate pair is not a character"),
        ("a: b\nc: \0", "r.yaml:2:4: the character U+0000 is not allowed in YAML"),
        ("a: &x [*x]", "r.yaml:1:4: a[0]: an alias that contains itself"),
        (
            "a: !!python/object:os.system x",
            f"r.yaml:1:4: a: the tag !!python/object:os.system is {NO_TAG}",
        ),
        ("a: !x {b: 1}", f"r.yaml:1:4: a: the tag !x is {NO_TAG}"),
        ("a: &x {b: 1}\n<<: *x", 'r.yaml:2:1: merge keys ("<<") are not read: use extends:'),
        ("? [a]\n: 1", "r.yaml:1:3: a key must be a string, not a list or a mapping"),
        ("1: a", "r.yaml:1:1: the key 1 is not a string: put it in quotes"),
        (": a", "r.yaml:1:1: the key null is not a string: put it in quotes"),
    ],
)
def test_text_that_is_no_recipe_is_refused_in_one_sentence(text: str, message: str) -> None:
    assert refused(text) == message


def test_faults_of_data_are_reported_together() -> None:
    assert refused("a: !x 1\nb: !y 2\nb: 3") == (
        "r.yaml:1:4: a: the tag !x is not allowed: a recipe is plain data\n"
        "r.yaml:2:4: b: the tag !y is not allowed: a recipe is plain data\n"
        "r.yaml:3:1: b: duplicate key; first given on line 2"
    )


def test_deep_nesting_is_refused() -> None:
    message = f"nested more than {MAX_DEPTH} levels deep"
    assert refused("a: " + "[" * 5000) == f"r.yaml:1:{MAX_DEPTH + 4}: {message}"


def test_nesting_through_aliases_is_refused() -> None:
    links = "\n".join(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, MAX_DEPTH + 1))
    assert refused(f"a0: &a0 [x]\n{links}").endswith(f"nested more than {MAX_DEPTH} levels deep")


def test_a_billion_laughs_are_refused() -> None:
    bombs = "\n".join(f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 10)}]" for i in range(1, 10))
    message = f"more than {MAX_VALUES} values, aliases expanded"
    assert refused(f"b0: &b0 [1]\n{bombs}").endswith(message)


def test_endless_values_are_refused_before_they_are_all_read() -> None:
    message = f"more than {MAX_VALUES} values, aliases expanded"
    assert refused(f"a: [{'1,' * (3 * MAX_VALUES)}").endswith(message)


def test_a_number_that_python_would_not_print_is_refused() -> None:
    message = f"r.yaml:1:4: a: a number of more than {MAX_NUMBER} digits"
    assert refused(f"a: {'9' * 5000}") == message
    assert refused(f"a: 0x{'f' * 5000}") == message


def test_a_file_that_is_not_there_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text("steps: []")
    (tmp_path / "server.yaml").write_text("steps: [")
    (tmp_path / "served.yaml").symlink_to(tmp_path / "nowhere")
    message = 'sevre.yaml: no such file. Did you mean "serve.yaml"?'
    assert refused_file(tmp_path / "sevre.yaml", tmp_path) == message


def test_neither_a_broken_recipe_nor_the_same_name_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "server.yaml").write_text("steps: [")
    (tmp_path / "serve.yaml").symlink_to(tmp_path / "nowhere")
    assert refused_file(tmp_path / "serve.yaml", tmp_path) == "serve.yaml: no such file"


def test_a_file_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    message = "no/serve.yaml: no such file; nor is there a folder no"
    assert refused_file(tmp_path / "no" / "serve.yaml", tmp_path) == message


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").mkdir()
    assert refused_file(tmp_path / "x.yaml", tmp_path) == "x.yaml: a folder, not a file"


def test_a_pipe_is_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.yaml")
    message = "a pipe or a device, and a recipe is a plain file"
    assert refused_file(tmp_path / "x.yaml", tmp_path) == f"x.yaml: {message}"
    with pytest.raises(RecipeError, match=f"extends: /dev/null: {message}"):
        read_text("extends: /dev/null")


INSIDE = "hunter2"
NO_RECIPE = (
    f"root:{INSIDE}:0:0:root:/root:/bin/bash\ndaemon:x\n",
    f"{INSIDE}\n",
    f"- {INSIDE}\n",
    f"{INSIDE}: *{INSIDE}\n",
    f"[default]\nkey = {INSIDE}\n",
    f"a: !{INSIDE} b\n",
    f"{INSIDE}: 1\n{INSIDE}: 2\n",
    f"%{INSIDE} x\n",
    f"\xff{INSIDE}",
)


@pytest.mark.parametrize("content", NO_RECIPE)
def test_nothing_is_shown_of_a_file_that_is_no_recipe(tmp_path: Path, content: str) -> None:
    base, child = tmp_path / "shadow", tmp_path / "x.yaml"
    base.write_text(content, encoding="latin-1")
    child.write_text("extends: shadow\n")
    message = f"shadow: is no recipe: it has none of the keys {', '.join(KEYS)}"
    assert refused_file(base, tmp_path) == message
    assert refused_file(child, tmp_path) == message


def test_a_recipe_is_known_by_keys_that_recipes_have() -> None:
    assert set(KEYS) == {*Recipe.model_fields, "extends"} - {"name", "description"}


def test_a_name_that_no_file_can_have() -> None:
    with pytest.raises(RecipeError, match="cannot be read: not a file's name"):
        read_file("a\0.yaml")


def test_bytes_that_are_not_utf_8_are_placed(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes("steps: 1\nbé: \xff".encode("latin-1"))
    message = "x.yaml:2:2: not UTF-8 text: the byte 0xe9 makes no character"
    assert refused_file(tmp_path / "x.yaml", tmp_path) == message


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes("\ufeffsteps: 1\r\nb: é\r\n".encode())
    document = read_file(tmp_path / "x.yaml")
    assert document.data == {"steps": 1, "b": "é"}
    assert document.locate(("b",)) == Location(str(tmp_path / "x.yaml"), 2, 4)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    message = f"x.yaml: larger than {MAX_BYTES} bytes: this is no recipe"
    assert refused_file(tmp_path / "x.yaml", tmp_path) == message
    assert refused("#" * (MAX_BYTES + 1)) == f"r.{message[2:]}"


def test_sample_files_are_looked_for_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("steps: []")
    assert read_file(tmp_path / "x.yaml").folder == tmp_path
    assert read_text("a: 1", "some/where/x.yaml").folder == Path("some/where")
    assert read_text("a: 1").folder == Path()


BASE = """\
name: base
target: {device: cpu}
verify:
  min_psnr: 30
  min_ssim: 0.9
steps: [a, b]
"""


def test_later_keys_win_one_level_deep_and_lists_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    child = tmp_path / "child.yaml"
    child.write_text("extends: base.yaml\nverify: {min_psnr: 40}\nsteps: [c]\nshapes: []\n")
    document = read_file(child)
    assert document.data == {
        "name": "base",
        "target": {"device": "cpu"},
        "verify": {"min_psnr": 40, "min_ssim": 0.9},
        "steps": ["c"],
        "shapes": [],
    }


def test_what_comes_from_the_base_is_placed_in_the_base(tmp_path: Path) -> None:
    base, child = tmp_path / "base.yaml", tmp_path / "child.yaml"
    base.write_text(BASE)
    child.write_text("extends: base.yaml\nverify: {min_psnr: 40}\nsteps: [c]\n")
    document = read_file(child)
    assert document.locate(("target", "device")) == Location(str(base), 2, 18)
    assert document.locate(("verify", "min_ssim"), key=True) == Location(str(base), 5, 3)
    assert document.locate(("verify", "min_psnr")) == Location(str(child), 2, 20)
    assert document.locate(("steps", 1)) == Location(str(child), 3, 8)


def test_nothing_is_placed_in_a_value_that_was_replaced(tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    (tmp_path / "base.yaml").write_text("sample: {x: [1, 2]}\nsteps: [a, b]\n")
    child.write_text("extends: base.yaml\nsample: {x: [3]}\nsteps: [c]\n")
    document = read_file(child)
    assert document.locate(("sample", "x", 1)) == Location(str(child), 2, 13)
    assert document.locate(("steps", 1)) == Location(str(child), 3, 8)


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("bsae.yaml", 'bsae.yaml: no such file. Did you mean "base.yaml"?'),
        ("[base.yaml]", "a list is not the name of a recipe file"),
        ('""', '"" is not the name of a recipe file'),
        ("..", "..: a folder, not a file"),
    ],
)
def test_a_base_that_cannot_be_read_is_blamed_on_extends(
    tmp_path: Path, extends: str, message: str
) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    child = tmp_path / "child.yaml"
    child.write_text(f"name: x\nextends: {extends}\n")
    assert refused_file(child, tmp_path) == f"child.yaml:2:10: extends: {message}"


def test_a_fault_in_the_base_is_placed_in_the_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("steps: [")
    child = tmp_path / "child.yaml"
    child.write_text("extends: base.yaml\n")
    message = refused_file(child, tmp_path)
    assert message.startswith("base.yaml:1:9: ")


def test_a_base_cannot_extend_another(tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text("extends: child.yaml\n")
    assert refused_file(child, tmp_path) == (
        "child.yaml:1:1: extends: child.yaml extends this file, so it cannot extend another: "
        "one level only"
    )


@pytest.mark.parametrize("value", [None, 5, {}, ["a"], b"compilekit: 1", object()])
def test_what_is_no_recipe_is_refused_in_words(value: Any) -> None:
    with pytest.raises(UsageError, match=r"a recipe is a `Recipe`, the path of a file, or the na"):
        plan(value)
    with pytest.raises(UsageError, match="a recipe is a `Recipe`, the path of a file, or the name"):
        Recipe.load(value)
    with pytest.raises(UsageError, match="the text of a recipe is a string of YAML, not "):
        Recipe.parse(value)
    with pytest.raises(UsageError, match=r'steps are a string such as "channels_last, torch_compi'):
        Recipe.from_steps(value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_what_other_editors_save_is_named(encoding, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_bytes("compilekit: 1\n".encode(encoding))
    with pytest.raises(RecipeError, match=r"not UTF-8 text: it begins as UTF-16 does. Save it"):
        Recipe.load(file)


@pytest.mark.parametrize("name", ["", " ", "\n"])
def test_a_name_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r'^".*" names no recipe: name a file, or a shipped recip'):
        plan(name)
