"""The Python code of a model. A cached part is not used after the code changed.

Installed packages are known by their versions; the user's own code by the digest of its files.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

DEPTH = 6

_INSTALLED = tuple(
    str(Path(sysconfig.get_path(name)).resolve())
    for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
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
    is_own = False
    for name in names:
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if name in sys.builtin_module_names or (file and _is_installed(file)):
            package = name.partition(".")[0]
            versions[package] = _version(package)
        elif not file:
            raise UnknownCodeError(f"{name} is in no file")
        else:
            is_own = True
    if is_own:
        # Modules that it imports may have changed too.
        versions |= {module.__name__: source_digest(path) for module, path in _users_modules()}
    return Code(versions, is_own)


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


def _users_modules() -> Iterator[tuple[ModuleType, Path]]:
    """Every imported module that belongs to no installed package."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        # Modules that are made at run time may have a `__file__` that is no path.
        if isinstance(file, str) and Path(file).is_file() and not _is_installed(file):
            yield module, Path(file)


@functools.cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return sys.version if package in sys.stdlib_module_names else ""
