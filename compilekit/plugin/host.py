"""The host: holds the plugins, calls exactly one per step, and says who is to blame."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pluggy

from compilekit.base.arguments import path_of
from compilekit.base.machine import Machine
from compilekit.base.texts import did_you_mean, printable, summary
from compilekit.base.words import CHANGES, SEVERITIES, SIZES, Device, Purpose, Severity, Sizes
from compilekit.errors import (
    CompilekitError,
    MachineError,
    PluginContractError,
    PluginError,
    PluginLoadError,
    StepError,
    UsageError,
)
from compilekit.plugin import hookspecs
from compilekit.plugin.answers import bad_description, bad_part, bad_result, is_names, shown
from compilekit.plugin.discovery import Plugin, file_plugin, installed_plugins, refuse_duplicates
from compilekit.plugin.hookspecs import PROJECT
from compilekit.plugin.steps import (
    Effects,
    Options,
    Part,
    PlannedStep,
    StepDescription,
    StepResult,
    StoredPart,
)

if TYPE_CHECKING:
    from compilekit.plugin.contexts import Context, ExportContext, StepContext, WholeContext
    from compilekit.plugin.handle import ModelHandle as Model


def load_host(plugins: Sequence[str | Path] = (), *, installed: bool = True) -> Host:
    """Find and load the plugins.

    plugins: files of plugins to add without installing them. A bad one raises here; a bad
        installed one raises only when a recipe uses it.
    installed: whether to load what installed distributions bring.

    >>> import compilekit as ck
    >>> host = ck.load_host()
    >>> host.descriptions["channels_last"].help
    'Store convolution weights channels last, as fast convolutions want them.'
    """
    if not isinstance(plugins, list | tuple):
        raise UsageError(
            f"plugins= is a list of files, not a value of type {type(plugins).__name__}"
        )
    files = [path_of(path, "a plugin is the path of a file") for path in plugins]
    declared = installed_plugins() if installed else []
    added = [file_plugin(path) for path in files]
    host = Host(refuse_duplicates([*declared, *added]))
    for plugin in added:
        loaded = host.plugins[plugin.name]
        if loaded.error:
            raise PluginLoadError(f"plugin {loaded}: {loaded.error}")
    return host


def given_host(host: Host | None) -> Host:
    """The host that a caller passes; left out, one with the installed plugins."""
    if host is None:
        return load_host()
    if not isinstance(host, Host):
        raise UsageError(
            f"host= is what `load_host` returns, not a value of type {type(host).__name__}"
        )
    return host


class Host:
    """The loaded plugins. Make one with `load_host`, and pass it on.

    >>> import compilekit as ck
    >>> ck.load_host().plugins["precision"].kind
    'step'
    """

    def __init__(self, plugins: Iterable[Plugin]) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._hooks = tuple(
            name
            for name in vars(hookspecs)
            if isinstance(getattr(self._manager.hook, name, None), pluggy.HookCaller)
        )
        self._plugins = {plugin.name: self._register(plugin) for plugin in plugins}
        self._manager.check_pending()
        self._descriptions: dict[str, StepDescription] = {}
        # Only now, with all of them registered, do the wrappers around `describe` all run.
        for name, plugin in self._plugins.items():
            self._plugins[name] = self._describe(plugin)

    @property
    def plugins(self) -> Mapping[str, Plugin]:
        """Every plugin that was found, by name; the broken ones say why."""
        return MappingProxyType(self._plugins)

    @property
    def descriptions(self) -> Mapping[str, StepDescription]:
        """The steps that a recipe may use, by name."""
        return MappingProxyType(self._descriptions)

    def describe(self, name: str) -> StepDescription:
        """The description of a step; raises if there is no such step or it is broken."""
        if name not in self._descriptions:
            raise self.missing(name)
        return self._descriptions[name]

    def missing(self, name: str) -> PluginError:
        """Why there is no step of this name, as an error to raise or to show."""
        plugin = self._plugins.get(name)
        if plugin is not None and plugin.kind == "broken":
            return PluginLoadError(f"plugin {plugin} cannot be used: {plugin.error}")
        if plugin is not None:
            return PluginError(f'"{name}" is an observer, not a step: it describes nothing')
        near = difflib.get_close_matches(name, self._descriptions, n=2)
        guess = " or ".join(f'"{match}"' for match in near)
        hint = f"Did you mean {guess}?" if near else f"The steps are {self._names()}."
        return PluginError(f'no plugin brings a step "{printable(name)}". {hint}')

    def effects(self, name: str, options: Options, device: Device) -> Effects:
        """Ask a step what it does with these options, and check the answer."""
        answer = self.ask(name, "effects", self.describe(name).effects, options, device)
        if not isinstance(answer, Effects):
            raise self.broken(name, f"effects returned {shown(answer)}")
        if loose := [key for key, value in vars(answer).items() if not is_names(value)]:
            raise self.broken(name, f"its effects: {loose[0]} must be a set of names")
        unknown = sorted(set(answer.changes) - set(CHANGES))
        if unknown or not answer.changes:
            named = f'"{unknown[0]}"' if unknown else "nothing"
            known = ", ".join(CHANGES)
            raise self.broken(name, f"its effects change {named}, and must name some of {known}")
        return answer

    def broken(self, name: str, fault: str) -> PluginContractError:
        """The error of a plugin that breaks the contract."""
        return PluginContractError(f"plugin {self._plugins[name]}: {fault}")

    def objections(
        self, name: str, options: Options, device: Device | None, purpose: Purpose
    ) -> list[str]:
        """Why these options make no sense for a device or purpose, as the step sees it."""
        check = self.describe(name).check
        if check is None or device is None:
            return []
        return self._sentences(name, "check", check, options, device, purpose)

    def advice(self, name: str, options: Options, device: Device, machine: Machine) -> list[str]:
        """What the step says about these options on a machine."""
        advice = self.describe(name).advice
        if advice is None:
            return []
        return self._sentences(name, "advice", advice, options, device, machine)

    def _sentences(
        self, name: str, what: str, function: Callable[..., Any], *arguments: object
    ) -> list[str]:
        answer = self.ask(name, what, function, *arguments)
        if not isinstance(answer, list | tuple) or not all(isinstance(a, str) for a in answer):
            raise self.broken(name, f"{what} gave {shown(answer)}, not sentences")
        return list(answer)

    def ask(self, name: str, what: str, function: Callable[..., Any], *arguments: object) -> Any:
        """Call a function of a description; what it raises is the plugin's fault."""
        try:
            answer = function(*arguments)
            return list(answer) if isinstance(answer, Iterator) else answer
        except (Exception, SystemExit) as error:
            raise self.broken(name, f"{what} raised {summary(error)}") from error

    def prepare(self, steps: Iterable[PlannedStep], purpose: Purpose) -> None:
        """Let the steps prepare this process, before torch looks for the device."""
        for step in steps:
            if step.description.prepare is None:
                continue
            try:
                step.description.prepare(step.options, purpose)
            except MachineError as error:
                raise MachineError(f"{step.key}: {error}") from error
            except (Exception, SystemExit) as error:
                who = f"{step.key}: plugin {self._plugins[step.name]}"
                raise StepError(f"{who}: prepare raised {summary(error)}") from error

    def mover(self, device: Device) -> Callable[[Any], object] | None:
        """How a pipeline is moved to a device, if a plugin for it says so."""
        return next((step.move for step in self._for_device(device) if step.move), None)

    def waits(self, device: Device) -> tuple[Callable[[], None], ...]:
        """What the plugins for a device call to wait for it."""
        return tuple(step.wait for step in self._for_device(device) if step.wait)

    def _for_device(self, device: Device) -> list[StepDescription]:
        return [step for step in self._descriptions.values() if step.targets == {device}]

    def optimize_model(self, step: PlannedStep, model: Model, context: Context) -> StepResult:
        """Call the step's plugin, under the wrappers of all others, and check its answer."""
        arguments = {"model": model, "options": step.options, "context": context}
        result = self._call(step.name, "optimize_model", step.key, **arguments)
        if fault := bad_result(result):
            raise self._bad_answer(step, "optimize_model", fault)
        return result  # type: ignore[no-any-return]

    def regions(self, step: PlannedStep, model: Model, context: StepContext) -> list[str] | None:
        """What an exporting step compiles, if not the components that it names."""
        if not self._implements(self._plugins[step.name], "regions"):
            return None
        arguments = {"model": model, "options": step.options, "context": context}
        answer = self._call(step.name, "regions", step.key, **arguments)
        if answer is None:
            return None
        if not isinstance(answer, list | tuple) or not all(isinstance(n, str) for n in answer):
            raise self._bad_answer(step, "regions", f"{shown(answer)}, not names of entry points")
        return list(answer)

    def export(
        self,
        step: PlannedStep,
        model: Model,
        destination: Path,
        context: ExportContext | WholeContext,
    ) -> Part:
        """Let the step's plugin compile ahead of time; check its answer."""
        arguments = {"model": model, "options": step.options, "destination": destination}
        part = self._call(step.name, "export", step.key, **arguments, context=context)
        if fault := bad_part(part):
            raise self._bad_answer(step, "export", fault)
        return part  # type: ignore[no-any-return]

    def load_compiled(
        self, name: str, key: str, part: StoredPart, context: Context
    ) -> Callable[..., Any]:
        """Let a plugin load what it exported: a part's function, or the whole pipeline."""
        runner = self._call(name, "load_compiled", key, part=part, context=context)
        if not callable(runner):
            who = self._blame_answer(name, "load_compiled")
            message = f"load_compiled returned {shown(runner)}, which cannot be called"
            raise PluginContractError(f"{key}: plugin {who}: {message}")
        return runner  # type: ignore[no-any-return]

    def sizes(self, step: PlannedStep) -> Sizes:
        """What a part of a step can serve with its options."""
        sizes = step.description.sizes
        answer = "fixed" if sizes is None else self.ask(step.name, "sizes", sizes, step.options)
        if answer not in SIZES:
            raise self.broken(step.name, f"sizes gave {answer!r}, not one of {', '.join(SIZES)}")
        return answer

    def reads(self, step: PlannedStep) -> list[str]:
        """The files, folders and hub ids that a step reads with its options."""
        reads = step.description.reads
        answer = [] if reads is None else self.ask(step.name, "reads", reads, step.options)
        if not isinstance(answer, list | tuple) or not all(isinstance(a, str) for a in answer):
            raise self.broken(step.name, f"reads gave {shown(answer)}, not paths")
        return list(answer)

    def judge(self, name: str, field: str, built: str, here: str) -> Severity | None:
        """How bad a plugin finds a difference of the fingerprint; None leaves it to us."""
        judge = self.describe(name).judge
        answer = None if judge is None else self.ask(name, "judge", judge, field, built, here)
        if answer not in (None, *SEVERITIES):
            raise self.broken(name, f"judge gave {answer!r}, not one of {', '.join(SEVERITIES)}")
        return answer

    def _bad_answer(self, step: PlannedStep, hook: str, fault: str) -> PluginContractError:
        who = self._blame_answer(step.name, hook)
        return PluginContractError(f"{step.key}: plugin {who}: {hook} returned {fault}")

    def late_details(self, name: str, result: StepResult) -> dict[str, object]:
        """What a step reports after the sample's last run."""
        if result.late_details is None:
            return {}
        details = self.ask(name, "late_details", result.late_details)
        if not isinstance(details, Mapping):
            raise self.broken(name, f"late_details returned {shown(details)}, not a mapping")
        return dict(details)

    def _names(self) -> str:
        return ", ".join(sorted(self._descriptions)) or "none: no plugin is installed"

    def _register(self, plugin: Plugin) -> Plugin:
        if plugin.module is None:
            return plugin
        try:
            self._manager.register(plugin.module, name=plugin.name)
        except (pluggy.PluginValidationError, ValueError) as error:
            if self._manager.has_plugin(plugin.name):
                self._manager.unregister(name=plugin.name)
            return plugin.broken(" ".join(str(error).split()))
        if reason := self._misuse(plugin):
            self._manager.unregister(name=plugin.name)
            return plugin.broken(reason)
        return plugin

    def _misuse(self, plugin: Plugin) -> str:
        """Why the hooks of a registered plugin make no sense; empty if they do."""
        callers = self._manager.get_hookcallers(plugin.module) or []
        if not callers:
            return "it implements no hook; mark its functions with @compilekit.hookimpl"
        for caller in callers:
            impls = [impl for impl in caller.get_hookimpls() if impl.plugin is plugin.module]
            if not caller.has_spec() and not all(impl.optionalhook for impl in impls):
                known = f" Hooks: {', '.join(self._hooks)}."
                hint = did_you_mean(caller.name, self._hooks) or known
                return f'there is no hook "{caller.name}".{hint}'
            if len(impls) > 1:
                return f"it implements the hook {caller.name} twice"
        steps = {name for name in self._hooks if self._implements(plugin, name)}
        lacks = {"describe", "optimize_model"} - steps
        if steps and lacks:
            return f"it implements {', '.join(sorted(steps))} and not {', '.join(sorted(lacks))}"
        return ""

    def _implements(self, plugin: Plugin, hook: str) -> bool:
        """Whether the plugin answers a hook itself, not only wraps it."""
        impls = getattr(self._manager.hook, hook).get_hookimpls()
        return any(impl.plugin is plugin.module and not _wraps(impl) for impl in impls)

    def _describe(self, plugin: Plugin) -> Plugin:
        if plugin.module is None:
            return plugin
        if not self._implements(plugin, "describe"):
            return replace(plugin, kind="observer")
        try:
            description = self._call(plugin.name, "describe")
        except CompilekitError as error:
            reason = str(error)
        else:
            reason = bad_description(description) or self._bad_exporter(plugin, description)
        if reason:
            self._manager.unregister(name=plugin.name)
            return plugin.broken(reason)
        self._descriptions[plugin.name] = description
        return plugin

    def _bad_exporter(self, plugin: Plugin, description: StepDescription) -> str:
        """Whether a plugin that says it exports has the hooks for it, and the other way round."""
        has = [name for name in ("export", "load_compiled") if self._implements(plugin, name)]
        if description.whole is not None and not description.exports:
            return "describe: it has `whole`, and does not say `exports=True`"
        if description.exports and len(has) < 2:  # noqa: PLR2004
            lacks = sorted({"export", "load_compiled"} - set(has))
            return f"describe: it says `exports=True`, and does not implement {' and '.join(lacks)}"
        if has and not description.exports:
            return f"it implements {' and '.join(has)}, and does not say `exports=True`"
        return ""

    def _call(self, name: str, hook: str, where: str = "", **arguments: object) -> Any:
        """Call one plugin's implementation of a hook, and every other plugin's wrapper."""
        others = [
            impl.plugin
            for impl in getattr(self._manager.hook, hook).get_hookimpls()
            if impl.plugin_name != name and not _wraps(impl)
        ]
        caller = self._manager.subset_hook_caller(hook, remove_plugins=others)
        try:
            return caller(**arguments)
        except CompilekitError:
            raise
        except (Exception, SystemExit) as error:
            culprit = self._culprit(error, name)
            at = f"{where}: " if where else ""
            raise StepError(f"{at}plugin {culprit}: {hook} raised {summary(error)}") from error

    def _culprit(self, error: BaseException, name: str) -> str:
        """The plugin whose code is nearest to where the error came from."""
        for frame, _ in reversed([*traceback.walk_tb(error.__traceback__)]):
            module = frame.f_globals.get("__name__", "")
            for other, candidate in self._manager.list_name_plugin():
                top = getattr(candidate, "__name__", None)
                if top and (module == top or module.startswith(f"{top}.")):
                    return str(self._plugins[other])
        return str(self._plugins[name])

    def _blame_answer(self, name: str, hook: str) -> str:
        """Who may have made a hook's answer: the step's plugin, and every wrapper around it."""
        impls = getattr(self._manager.hook, hook).get_hookimpls()
        around = [
            str(self._plugins[i.plugin_name]) for i in impls if _wraps(i) and i.plugin_name != name
        ]
        also = f" (or a wrapper around it: {', '.join(around)})" if around else ""
        return f"{self._plugins[name]}{also}"


def _wraps(impl: pluggy.HookImpl) -> bool:
    return impl.wrapper or impl.hookwrapper
