"""The recipes that travel with compilekit: by name, in a wheel and in a checkout alike."""

from __future__ import annotations

import re
from pathlib import Path

from compilekit.errors import Location, Problem, RecipeError
from compilekit.recipe.messages import did_you_mean
from compilekit.recipe.source import Document, read_file

_PACKAGE = Path(__file__).parents[1]
_SUFFIXES = (".yaml", ".yml")


def folders() -> list[Path]:
    """Where shipped recipes are: in the wheel, or beside the package in a checkout."""
    found = [_PACKAGE / "_recipes"]
    project = _PACKAGE.parent / "pyproject.toml"
    if project.is_file() and re.search(
        r'^name *= *"compilekit"', project.read_text(encoding="utf-8"), re.MULTILINE
    ):
        found.append(_PACKAGE.parent / "recipes")
    return [folder for folder in found if folder.is_dir()]


def names() -> list[str]:
    """The names of the shipped recipes; `a10-...` comes after `a9-...`."""
    found = {path.stem for folder in folders() for path in folder.glob("*.yaml")}
    return sorted(found, key=_by_number)


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def find(name: str) -> Path | None:
    """The file of a shipped recipe."""
    if name not in names():
        return None
    files = (folder / f"{name}.yaml" for folder in folders())
    return next((file for file in files if file.is_file()), None)


def read(source: str | Path) -> Document:
    """Read a recipe: a path, or the name of a shipped recipe."""
    if isinstance(source, Path) or _is_path(source):
        return _read_path(source)
    path = find(source)
    if path is not None:
        return read_file(path)
    if Path(source).exists():
        return read_file(source)
    looked = " and ".join(str(folder) for folder in folders()) or "no folder: none is installed"
    near = did_you_mean(source, names())
    message = f"no shipped recipe has this name{near}. Looked in {looked}"
    raise RecipeError([Problem(Location(source), "", message.replace("?.", "?"))])


def _read_path(source: str | Path) -> Document:
    path = Path(source)
    if path.name == str(source) and not path.exists() and find(path.stem):
        message = f'no such file. Did you mean the shipped recipe "{path.stem}"?'
        raise RecipeError([Problem(Location(str(source)), "", message)])
    return read_file(source)


def _is_path(source: str) -> bool:
    return source.endswith(_SUFFIXES) or "/" in source or "\\" in source
