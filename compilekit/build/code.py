"""The Python code of a model. A cached part is not used after the code changed.

Installed packages are known by their versions; the user's own code by the digest of its files.
What this process happens to have imported must not count: another process imports other modules.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

DEPTH = 6

_SCHEMES = ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
_SELF = Path(__file__).parents[1]
"""compilekit's own files: their digest is in every key."""

_INSTALLED = tuple(
    f"{folder.resolve()}{os.sep}"
    for folder in (_SELF, *(Path(sysconfig.get_path(name)) for name in _SCHEMES))
)


class UnknownCodeError(Exception):
    """Code that is in no file, so it cannot be fingerprinted."""


@dataclass(frozen=True)
class Code:
    """Versions and digests of the code that runs; `is_own`: some of it is the user's."""

    versions: dict[str, str]
    is_own: bool


def code_of(modules: Iterable[nn.Module]) -> Code:
    """The code that runs in these modules."""
    names: set[str] = set()
    classes: set[type] = set()
    for layer in modules:
        classes.update(type(layer).__mro__)
        names.update(name for value in vars(layer).values() for name in _inside(value))
    names.update(name for kind in classes for name in _homes(kind))
    versions: dict[str, str] = {}
    own = []
    for name in names:
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if name in sys.builtin_module_names or (file and _is_installed(file)):
            package = name.partition(".")[0]
            versions[package] = _version(package)
        elif not file:
            raise UnknownCodeError(f"{name} is in no file")
        else:
            own.append(name)
    versions |= {name: source_digest(path) for name, path in _with_imports(own)}
    return Code(versions, bool(own))


def source_digest(path: Path) -> str:
    """The digest of a module's file, or of all Python files of a package."""
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(path.parent)).encode() + b"\0")
        try:
            digest.update(file.read_bytes())
        except OSError as error:
            raise UnknownCodeError(f"{file}: {error.strerror}") from error
    return digest.hexdigest()


def package_digest(module: ModuleType | None) -> str:
    """The digest of all Python files of the package that a module belongs to."""
    package = sys.modules.get(module.__name__.partition(".")[0], module) if module else None
    file = getattr(package, "__file__", None) or getattr(module, "__file__", None)
    if not file:
        raise UnknownCodeError("it is in no file")
    path = Path(file)
    return source_digest(path.parent if path.name == "__init__.py" else path)


def _homes(kind: type) -> Iterator[str]:
    """The modules of a class's code; another module may have added a method."""
    yield kind.__module__
    for value in vars(kind).values():
        function = inspect.unwrap(value) if callable(value) else value
        if isinstance(function, FunctionType):
            yield function.__module__ or kind.__module__


def _inside(value: object, depth: int = 0) -> Iterator[str]:
    """The modules of functions and classes that are settings: activations, for example."""
    if isinstance(value, MethodType):
        value = value.__func__
    if isinstance(value, type | FunctionType):
        yield value.__module__ or ""
    elif isinstance(value, Mapping | list | tuple | set | frozenset) and depth < DEPTH:
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _inside(item, depth + 1)


@functools.cache
def _is_installed(file: str) -> bool:
    return str(Path(file).resolve()).startswith(_INSTALLED)


def _with_imports(names: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """The user's own modules, and all of the user's that they import, now or later."""
    waiting, seen = list(names), set(names)
    while waiting:
        name = waiting.pop()
        file, package = _place(name)
        # Modules that are made at run time may have a `__file__` that is no path.
        if not isinstance(file, str) or not Path(file).is_file() or _is_installed(file):
            continue
        yield name, Path(file)
        parent = name.rpartition(".")[0]
        found = {*_imports(Path(file).read_bytes(), package), *([parent] if parent else [])}
        waiting += found - seen
        seen |= found


def _place(name: str) -> tuple[str | None, str]:
    """The file of a module, and the package it belongs to. Nothing is imported to find it."""
    if (module := sys.modules.get(name)) is not None:
        return getattr(module, "__file__", None), getattr(module, "__package__", None) or ""
    spec = _spec(name)
    return (spec.origin, spec.parent or "") if spec else (None, "")


def _spec(name: str) -> ModuleSpec | None:
    """As `importlib.util.find_spec`, which would import the packages that a module lies in."""
    parent, path = name.rpartition(".")[0], None
    if parent:
        package = sys.modules.get(parent) or _spec(parent)
        path = getattr(package, "__path__", None) or getattr(
            package, "submodule_search_locations", None
        )
        if path is None:
            return None
    finders = (getattr(finder, "find_spec", None) for finder in sys.meta_path)
    return next((spec for find in finders if find and (spec := find(name, path))), None)


@functools.lru_cache(maxsize=4096)
def _imports(source: bytes, package: str) -> frozenset[str]:
    """The names of all modules that a module's source may import."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):  # compiled code, or another version of Python
        return frozenset()
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = "." * node.level + (node.module or "")
            try:
                home = importlib.util.resolve_name(home, package)
            except ImportError:  # it leads out of the package, and fails when it runs
                continue
            names.update((home, *(f"{home}.{alias.name}" for alias in node.names)))
    return frozenset(names)


@functools.cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return sys.version if package in sys.stdlib_module_names else ""
