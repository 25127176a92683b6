"""Finding plugins: installed ones by entry point, others by file. One bad plugin harms no other."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Literal

from compilekit.base.streams import let_speak
from compilekit.base.texts import summary
from compilekit.errors import PluginLoadError
from compilekit.plugin.hookspecs import PROJECT


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A plugin that was found, loaded or not.

    origin: the distribution and its version, or the file.
    error: why it cannot be used; empty if it can.
    version: what bundles remember of it: the distribution, or the file's name and digest.
    """

    name: str
    origin: str
    module: ModuleType | None = None
    kind: Literal["step", "observer", "broken"] = "step"
    error: str = ""
    imports_torch: bool = False
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.origin})"

    def broken(self, reason: str) -> Plugin:
        """The same plugin, unusable for a reason."""
        return replace(self, module=None, kind="broken", error=reason)


def installed_plugins() -> list[Plugin]:
    """Every plugin that an installed distribution declares, each loaded on its own."""
    by_name: dict[str, list[importlib.metadata.EntryPoint]] = defaultdict(list)
    for entry_point in importlib.metadata.entry_points(group=PROJECT):
        by_name[entry_point.name].append(entry_point)
    return [_load(name, entry_points) for name, entry_points in sorted(by_name.items())]


def _load(name: str, entry_points: list[importlib.metadata.EntryPoint]) -> Plugin:
    origin = " and ".join(map(_distribution, entry_points))
    plugin = Plugin(name=name, origin=origin, version=origin)
    if len(entry_points) > 1:
        return plugin.broken(f"{len(entry_points)} distributions bring a plugin of this name")
    return _import(plugin, entry_points[0].load)


def _distribution(entry_point: importlib.metadata.EntryPoint) -> str:
    if entry_point.dist is None:
        return "an unknown distribution"
    return f"{entry_point.dist.name} {entry_point.dist.version}"


def _import(plugin: Plugin, load: object) -> Plugin:
    had_torch = "torch" in sys.modules
    try:
        module = load()  # type: ignore[operator]
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 - SystemExit at import must not end the host
        return plugin.broken(f"importing it raised {summary(error)}")
    if not isinstance(module, ModuleType):
        return plugin.broken(f"its entry point names a {type(module).__name__}, not a module")
    let_speak(module.__name__)
    return replace(plugin, module=module, imports_torch=not had_torch and "torch" in sys.modules)


def file_plugin(path: Path) -> Plugin:
    """A plugin from a file: its name is the file's, without `.py`. Asked for, so errors raise."""
    if not os.path.isfile(path):  # noqa: PTH113 - false, not an error, where it is too long
        raise PluginLoadError(f"plugin {path}: no such file")
    name = path.stem
    spec = importlib.util.spec_from_file_location(f"compilekit_file_plugin_{name}", path)
    if spec is None or spec.loader is None:
        raise PluginLoadError(f"plugin {path}: not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader

    def load() -> ModuleType:
        # Registered first: dataclasses and pydantic look their module up while it is executed.
        sys.modules[module.__name__] = module
        loader.exec_module(module)
        return module

    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    version = f"{path.name} sha256:{digest}"
    plugin = _import(Plugin(name=name, origin=str(path), version=version), load)
    if plugin.error:
        raise PluginLoadError(f"plugin {plugin}: {plugin.error}")
    return plugin


def refuse_duplicates(plugins: Iterable[Plugin]) -> list[Plugin]:
    """Plugins by name, where a name that two of them bring is unusable and names both."""
    result: dict[str, Plugin] = {}
    for plugin in plugins:
        first = result.get(plugin.name)
        if first is None:
            result[plugin.name] = plugin
        else:
            both = replace(plugin, origin=f"{first.origin} and {plugin.origin}")
            result[plugin.name] = both.broken("both bring a plugin of this name")
    return list(result.values())
