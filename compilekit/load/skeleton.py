"""Components of a bundle as modules: the stock class without weights, then the bundle's own.

The class comes from diffusers or transformers by its config. Layers that the bundle's tensors
lack are taken away, and those that only they have are put there: compiled code needs no Python
of them. A component whose Python still runs has had its structure steps run again before.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from compilekit.base import torch_internals
from compilekit.bundle import constants, manifest
from compilekit.bundle.calls import TRUSTED
from compilekit.errors import BundleError
from compilekit.load.placeholder import Placeholder

CONFIG = "config.json"
UNMADE = (OSError, ValueError, TypeError, KeyError, RuntimeError)
"""What is raised where a config does not fit its class."""

_INITS = frozenset((nn.init.uniform_, nn.init.normal_, nn.init.constant_, nn.init.kaiming_uniform_))
"""The functions that torch passes to a mode."""


def _no_code(*_: Any, **__: Any) -> Any:
    raise BundleError("this module has no code but compiled code, and none was loaded")


class NoInit(TorchFunctionMode):
    """Skips the initialisation of weights, since the bundle's weights replace them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Skip a function of `torch.nn.init`."""
        del types
        if func in _INITS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


class Shell(nn.Module):
    """Replaces a module whose Python class is not needed, because all of it is compiled."""

    def __init__(self, methods: Sequence[str]) -> None:
        super().__init__()
        for method in methods:
            vars(self)[method] = _no_code


def home_of(module: nn.Module) -> tuple[str, str] | None:
    """The package and name to import a module's class from; None if there are none."""
    kind = type(module)
    package = kind.__module__.split(".")[0]
    if package not in TRUSTED or not hasattr(module, "config"):
        return None
    if getattr(importlib.import_module(package), kind.__name__, None) is kind:
        return package, kind.__name__
    return kind.__module__, kind.__name__


def save_config(module: nn.Module, folder: Path) -> None:
    """Write the config from which the class can be made again."""
    subject: Any = module
    if hasattr(module, "save_config"):
        subject.save_config(folder)
    else:
        subject.config.save_pretrained(folder)


def bare(component: manifest.Component, folder: Path, methods: Sequence[str]) -> nn.Module:
    """A component made from its config, without weights.

    methods: those that compiled code serves, for a module without a class.
    """
    if not component.library:
        return Shell(methods)
    kind = _class(component)
    if not (folder / CONFIG).is_file():
        raise BundleError(f"{component.name}: {folder} is missing, or holds no {CONFIG}")
    try:
        return of_config(kind, folder)
    except UNMADE as error:
        raise BundleError(
            f"{component.name}: a {component.class_name} cannot be made of its config: {error}"
        ) from error


def of_config(kind: Any, folder: Path) -> nn.Module:
    """A module that `kind` makes of the config in a folder, without weights."""
    with torch.device("meta"), NoInit(), torch.no_grad():
        if hasattr(kind, "load_config"):
            module = kind.from_config(kind.load_config(folder))
        else:
            module = kind(kind.config_class.from_pretrained(folder))
    return module.eval().requires_grad_(requires_grad=False)  # type: ignore[no-any-return]


def _class(component: manifest.Component) -> Any:
    library, name = component.library, component.class_name
    if library.split(".")[0] not in TRUSTED:
        raise BundleError(f"{component.name}: its class is of {library}, which is not trusted")
    try:
        kind = getattr(importlib.import_module(library), name)
    except (ImportError, AttributeError) as error:
        raise BundleError(f"{component.name}: {library} has no class {name} here") from error
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise BundleError(f"{component.name}: {library}.{name} is no module's class")
    return kind


def tensors_of(
    component: manifest.Component, folder: Path, device: torch.device, *, copy: bool = False
) -> dict[str, torch.Tensor]:
    """The stored tensors of a component by name."""
    if component.constants is None:
        return {}
    stored = constants.read(folder / component.constants, device, copy=copy)
    return {
        row.name: constants.shaped(row, stored, component.name)
        for row in component.tensors
        if row.key is not None
    }


def fill(
    module: nn.Module,
    component: manifest.Component,
    tensors: Mapping[str, torch.Tensor],
    device: torch.device,
) -> None:
    """Give a bare module the bundle's tensors; tied ones stay one parameter."""
    rows = {row.name: row for row in component.tensors if row.kind not in ("inner", "extra")}
    _take_away(module, rows)
    tied: dict[str, nn.Parameter] = {}
    for row in rows.values():
        value: Any = tensors.get(row.name)
        if value is None:
            how = "quantised" if row.inner else "packed"
            reason = f"{component.name}.{row.name} is {how}, inside of compiled code"
            value = Placeholder.like(row.shape, _dtype(row), device, reason)
        if row.kind == "parameter":
            value = nn.Parameter(value, requires_grad=False)
            if row.key is not None:
                value = tied.setdefault(row.key, value)
        _put(module, row, value)


def _dtype(row: manifest.Tensor) -> torch.dtype:
    dtype = getattr(torch, row.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise BundleError(f"{row.name}: torch has no dtype {row.dtype}")
    return dtype


def _put(module: nn.Module, row: manifest.Tensor, value: Any) -> None:
    *path, name = row.name.split(".")
    owner = module
    for part in path:
        child = getattr(owner, part, None)
        if not isinstance(child, nn.Module):
            # An object that is not a module may be there: a stock attention processor.
            vars(owner).pop(part, None)
            child = nn.Module()
            owner.add_module(part, child)
        owner = child
    if row.kind == "parameter":
        owner.register_parameter(name, value)
    elif row.kind == "buffer":
        owner.register_buffer(name, value, persistent=row.persistent)
    else:
        vars(owner)[name] = value


def _take_away(module: nn.Module, rows: Mapping[str, manifest.Tensor]) -> None:
    """Remove tensors that the bundle lacks, and modules without any tensor left."""
    for path, child in reversed(list(module.named_modules(remove_duplicate=False))):
        prefix = f"{path}." if path else ""
        tables = torch_internals.tensor_tables(child)
        tensors = [(t, name) for t in tables for name, value in t.items() if value is not None]
        extra = [(table, name) for table, name in tensors if f"{prefix}{name}" not in rows]
        for table, name in extra:
            del table[name]
        if extra and len(extra) == len(tensors) and path and not list(child.children()):
            parent, _, name = path.rpartition(".")
            delattr(module.get_submodule(parent), name)
