"""Shipped recipes are found by name, in a wheel and in a checkout."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compilekit.errors import RecipeError
from compilekit.recipe import Recipe, library

RECIPE = "compilekit: 1\ntarget: {device: cpu}\n"
OLD = {
    "a1-bfloat16": "any/bfloat16",
    "a5-compile": "sd/compile",
    "a7-regions": "sd/compile-regions",
    "a13-flux": "flux/aot",
    "a15-flux-kontext": "flux/kontext",
    "d5-vae": "sd/vae",
    "sd15-cpu": "sd/cpu",
    "sdxl-cuda": "sdxl/cuda",
    "neuron-turbo": "neuron/sdxl-turbo",
    "gaudi-compile": "gaudi/sdxl-compile",
    "gaudi-optimum-g2": "gaudi/sd21-optimum",
    "memory": "sd/low-memory",
}
"""Names of the shipped recipes before they had families."""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "compilekit"
    folder.mkdir()
    monkeypatch.setattr(library, "_PACKAGE", folder)
    return folder


@pytest.fixture
def wheel(package: Path) -> Path:
    folder = package / "_recipes"
    for name in ("any/tf32", "sd/compile", "sd/cpu", "sdxl/cpu"):
        file = folder / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(RECIPE)
    (folder / "sd" / "README.md").write_text("not a recipe")
    return folder


def checkout(package: Path, project: str) -> Path:
    folder = package.parent / "recipes"
    (folder / "sd").mkdir(parents=True)
    (folder / "sd" / "mps.yaml").write_text(RECIPE)
    (package.parent / "pyproject.toml").write_text(project)
    return folder


def refused(source: str, folder: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(source)
    return str(caught.value).replace(str(folder), "FOLDER")


def test_recipes_in_the_wheel_are_loaded_by_family_and_name(wheel: Path) -> None:
    assert library.names() == ["any/tf32", "sd/compile", "sd/cpu", "sdxl/cpu"]
    assert library.find("sd/cpu") == wheel / "sd" / "cpu.yaml"
    assert Recipe.load("sd/cpu").folder == wheel / "sd"


def test_recipes_of_an_editable_checkout_are_loaded_by_name(package: Path) -> None:
    folder = checkout(package, '[project]\nname = "compilekit"\n')
    assert library.names() == ["sd/mps"]
    assert library.find("sd/mps") == folder / "sd" / "mps.yaml"


def test_a_folder_of_another_project_is_not_ours(package: Path) -> None:
    checkout(package, '[project]\nname = "other"\n')
    assert library.names() == []


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ("compile", '"sd/compile"'),
        ("compiel", '"sd/compile"'),
        ("a5-compile", '"sd/compile"'),
        ("cpu", '"sd/cpu" or "sdxl/cpu"'),
        ("sdxl-cpu", '"sdxl/cpu"'),
        ("SD-Compile", '"sd/compile"'),
    ],
)
def test_a_name_that_no_recipe_has_lists_near_names(wheel: Path, asked: str, near: str) -> None:
    assert refused(asked, wheel) == (
        f"{asked}: no shipped recipe has this name. Did you mean {near}? "
        "`compilekit recipes` lists all"
    )


@pytest.mark.parametrize("asked", ["sd/comple", "sdxl/compile", "recipes/sd/compile"])
def test_a_name_with_a_slash_may_have_been_a_path(wheel: Path, asked: str) -> None:
    assert refused(asked, wheel) == (
        f'{asked}: no such file, and no shipped recipe has this name. Did you mean "sd/compile"? '
        "`compilekit recipes` lists all"
    )


def test_a_name_like_no_other_lists_its_family_or_where_it_looked(wheel: Path) -> None:
    assert refused("sd-zebra", wheel) == (
        "sd-zebra: no shipped recipe has this name. The family sd has sd/compile, sd/cpu"
    )
    assert refused("zebra", wheel) == (
        "zebra: no shipped recipe has this name. `compilekit recipes` lists them. Looked in FOLDER"
    )


@pytest.mark.parametrize("asked", ["sd", "sd/"])
def test_a_family_alone_lists_its_recipes(wheel: Path, asked: str) -> None:
    assert refused(asked, wheel) == (
        f"{asked}: a family of recipes, not a recipe. It has sd/compile, sd/cpu"
    )


@pytest.mark.parametrize(("old", "new"), OLD.items())
def test_an_old_name_leads_to_the_new_one(old: str, new: str) -> None:
    assert new in re.findall(r"[\w-]+/[\w-]+", refused(old, Path()))


def test_without_shipped_recipes_it_says_so(package: Path) -> None:
    assert refused("sd-cpu", package) == (
        "sd-cpu: no shipped recipe has this name: none is installed"
    )


def test_a_path_is_never_taken_for_a_name(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert library.find("../_recipes/sd/cpu") is None
    assert refused("sd/cpu.yaml", tmp_path) == (
        'sd/cpu.yaml: no such file. Did you mean the shipped recipe "sd/cpu"?'
    )
    assert refused("cpu.yaml", tmp_path) == (
        'cpu.yaml: no such file. Did you mean the shipped recipe "sd/cpu" or "sdxl/cpu"?'
    )
    assert refused("./sd/cpu", tmp_path) == "./sd/cpu: no such file; nor is there a folder sd"
    (tmp_path / "mine").mkdir()
    assert refused("mine", tmp_path) == "mine: a folder, not a file"


def test_a_file_wins_over_a_shipped_recipe_and_a_folder_does_not(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sd" / "cpu").mkdir(parents=True)
    assert Recipe.load("sd/cpu").folder == wheel / "sd"
    (tmp_path / "sd" / "cpu").rmdir()
    (tmp_path / "sd" / "cpu").write_text(RECIPE)
    assert Recipe.load("sd/cpu").folder == Path("sd")


def test_a_name_that_is_too_long_for_a_file_is_refused_like_any_other(wheel: Path) -> None:
    assert "no shipped recipe has this name" in refused("x" * 5000, wheel)


def test_a_file_without_an_ending_is_loaded_too(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text(RECIPE)
    assert Recipe.load("mine").name == "mine"
    assert Recipe.load(Path("mine")).name == "mine"
