"""Shipped recipes are found by name, in a wheel and in a checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from compilekit.errors import RecipeError
from compilekit.recipe import Recipe, library

RECIPE = "compilekit: 1\ntarget: {device: cpu}\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "compilekit"
    folder.mkdir()
    monkeypatch.setattr(library, "_PACKAGE", folder)
    return folder


@pytest.fixture
def wheel(package: Path) -> Path:
    (package / "_recipes").mkdir()
    (package / "_recipes" / "sd-cpu.yaml").write_text(RECIPE)
    (package / "_recipes" / "README.md").write_text("not a recipe")
    return package / "_recipes"


def checkout(package: Path, project: str) -> Path:
    folder = package.parent / "recipes"
    folder.mkdir()
    (folder / "sd-mps.yaml").write_text(RECIPE)
    (package.parent / "pyproject.toml").write_text(project)
    return folder


def refused(source: str, folder: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(source)
    return str(caught.value).replace(str(folder), "FOLDER")


def test_recipes_in_the_wheel_are_loaded_by_name(wheel: Path) -> None:
    assert library.names() == ["sd-cpu"]
    assert library.find("sd-cpu") == wheel / "sd-cpu.yaml"
    assert Recipe.load("sd-cpu").name == "sd-cpu"


def test_recipes_of_an_editable_checkout_are_loaded_by_name(package: Path) -> None:
    folder = checkout(package, '[project]\nname = "compilekit"\n')
    assert library.find("sd-mps") == folder / "sd-mps.yaml"


def test_a_folder_of_another_project_is_not_ours(package: Path) -> None:
    checkout(package, '[project]\nname = "other"\n')
    assert library.names() == []


def test_a_name_that_no_recipe_has_lists_near_names_and_where_it_looked(wheel: Path) -> None:
    assert refused("sd-cpuu", wheel) == (
        'sd-cpuu: no shipped recipe has this name. Did you mean "sd-cpu"? Looked in FOLDER'
    )
    assert refused("zebra", wheel) == ("zebra: no shipped recipe has this name. Looked in FOLDER")


def test_without_shipped_recipes_it_says_so(package: Path) -> None:
    assert refused("sd-cpu", package) == (
        "sd-cpu: no shipped recipe has this name. Looked in no folder: none is installed"
    )


def test_a_path_is_never_taken_for_a_name(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert library.find("../_recipes/sd-cpu") is None
    assert refused("sd-cpu.yaml", tmp_path) == (
        'sd-cpu.yaml: no such file. Did you mean the shipped recipe "sd-cpu"?'
    )
    assert refused("./sd-cpu", tmp_path) == "./sd-cpu: no such file"


def test_a_file_without_an_ending_is_loaded_too(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text(RECIPE)
    assert Recipe.load("mine").name == "mine"
    assert Recipe.load(Path("mine")).name == "mine"
