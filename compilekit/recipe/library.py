"""Shipped recipes: found by name, in a wheel and in a checkout alike."""

from __future__ import annotations

import os
import re
from difflib import SequenceMatcher
from pathlib import Path

from compilekit.base.texts import printable
from compilekit.errors import Location, Problem, RecipeError, UsageError
from compilekit.recipe.messages import either, shown
from compilekit.recipe.source import Document, read_file, read_stdin

_PACKAGE = Path(__file__).parents[1]
_SUFFIXES = (".yaml", ".yml")
_NEAR = 0.6
_OF_FAMILY = 0.3
_SPREAD = 0.15
_SHOWN = 4


def folders() -> list[Path]:
    """The folders with shipped recipes: in the wheel, or beside the package in a checkout."""
    places = [_PACKAGE / "_recipes"]
    project = _PACKAGE.parent / "pyproject.toml"
    if project.is_file() and re.search(
        r'^name *= *"compilekit"', project.read_text(encoding="utf-8"), re.MULTILINE
    ):
        places.append(_PACKAGE.parent / "recipes")
    return [folder for folder in places if folder.is_dir()]


def names() -> list[str]:
    """The names of the shipped recipes, `sd/compile` for example, sorted by family."""
    distinct = {
        path.relative_to(folder).with_suffix("").as_posix()
        for folder in folders()
        for path in folder.rglob("*.yaml")
    }
    return sorted(distinct, key=lambda name: name.split("/"))


def family(name: str) -> str:
    """The family of a recipe: `sd` for `sd/compile`."""
    return name.rpartition("/")[0]


def families() -> dict[str, str]:
    """The title of each family, from `families.txt` beside the recipes."""
    files = (folder / "families.txt" for folder in folders())
    texts = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
    lines = (line.partition(": ") for text in texts for line in text.splitlines())
    return {family: title for family, _, title in lines}


def find(name: str) -> Path | None:
    """The file of a shipped recipe."""
    if name not in names():
        return None
    files = (folder / f"{name}.yaml" for folder in folders())
    return next((file for file in files if file.is_file()), None)


def read(source: str | Path) -> Document:
    """Read a recipe: a file, or a shipped recipe by its name.

    A file wins over a shipped recipe of the same name. "-" is standard input.
    """
    if not isinstance(source, str | Path):
        raise UsageError(
            "a recipe is a `Recipe`, the path of a file, or the name of a shipped recipe, not "
            f"{shown(source)}; `Recipe.parse` reads text"
        )
    if not str(source).strip():
        raise UsageError(f"{shown(str(source))} names no recipe: name a file, or a shipped recipe")
    if source == "-":
        return read_stdin()
    if isinstance(source, Path) or _is_path(source) or _is_file(source):
        return _read_path(source)
    if path := find(source):
        return read_file(path)
    if members := _members(source.strip("/")):
        raise _error(source, f"a family of recipes, not a recipe. It has {', '.join(members)}")
    if _is_there(source):
        return read_file(source)
    raise _error(source, _unknown(source))


def _read_path(source: str | Path) -> Document:
    path = Path(source)
    if not path.is_absolute() and path.suffix in _SUFFIXES and not _is_there(path):
        stem = path.with_suffix("").as_posix()
        same = [name for name in names() if stem in (name, _last(name))]
        if same:
            choice = _choice(same)
            raise _error(str(source), f"no such file. Did you mean the shipped recipe {choice}?")
    return read_file(source)


def _is_path(source: str) -> bool:
    """Whether a string can only be a path: `serve.yaml` or `./serve`, for example."""
    return source.endswith(_SUFFIXES) or source.startswith((".", "/", "~")) or "\\" in source


def _is_file(source: str) -> bool:
    return _is_there(source) and not Path(source).is_dir()


def _is_there(source: str | Path) -> bool:
    return os.path.exists(source)  # noqa: PTH110 - false, not an error, where it is too long


def _members(family_: str) -> list[str]:
    return [name for name in names() if family(name) == family_]


def _unknown(source: str) -> str:
    """The message for a name that neither a file nor a shipped recipe has."""
    message = "no such file, and " if "/" in source else ""
    message += "no shipped recipe has this name"
    of_family, near = _near(source)
    if near:
        return f"{message}. Did you mean {_choice(near)}? `compilekit recipes` lists all"
    if of_family:
        return f"{message}. The family {of_family} has {', '.join(_members(of_family))}"
    if looked := " and ".join(map(str, folders())):
        return f"{message}. `compilekit recipes` lists them. Looked in {looked}"
    return f"{message}: none is installed"


def _near(source: str) -> tuple[str, list[str]]:
    """The family that the name speaks of, if any, and the nearest names, best first.

    A recipe is known by its whole name and by its last part: `compile` finds `sd/compile`, and
    `sdxl-cuda` finds `sdxl/cuda`.
    """
    asked = source.lower()
    words = [word for word in re.split(r"[^a-z0-9]+", asked) if word]
    of_family = next((word for word in words if _members(word)), "")
    if of_family:
        words.remove(of_family)
        asked = "-".join(words)
    scores = {}
    for name in names():
        parts = (name, _last(name))
        score = max(SequenceMatcher(None, asked, part).ratio() for part in parts)
        if score >= _NEAR:
            scores[name] = score + _OF_FAMILY * (family(name) == of_family)
    best = max(scores.values(), default=0.0)
    near = [name for name, score in scores.items() if score >= best - _SPREAD]
    return of_family, sorted(near, key=lambda name: -scores[name])[:_SHOWN]


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _choice(near: list[str]) -> str:
    return either([f'"{printable(name)}"' for name in near])


def _error(source: str, message: str) -> RecipeError:
    return RecipeError([Problem(Location(source), "", message)])
