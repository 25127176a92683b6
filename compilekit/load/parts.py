"""Loading a bundle of parts: check it, assemble the pipeline, install the parts, seal it."""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from compilekit.base import environment
from compilekit.base.diffusers_internals import lora_components
from compilekit.base.progress import Progress
from compilekit.base.words import ALL_COMPONENTS
from compilekit.bundle import manifest as manifests
from compilekit.bundle.calls import Binder
from compilekit.bundle.files import Check, checking
from compilekit.bundle.fingerprint import Difference, differences
from compilekit.bundle.loaded import Loaded, NoCopy, attach
from compilekit.bundle.manifest import Manifest
from compilekit.bundle.planned import planned
from compilekit.engine.saving import refuse
from compilekit.errors import (
    BundleError,
    CompilekitError,
    MachineError,
    MismatchError,
    UsageError,
)
from compilekit.load.entry import CompiledEntry, OnUncovered, Runner, Variant, variant_of
from compilekit.load.placeholder import Placeholder
from compilekit.load.seal import UNSEEN_OF_PIPELINES, PipelineMoves, Seal, close
from compilekit.load.skeleton import Shell, bare, fill, tensors_of
from compilekit.plugin.contexts import Context
from compilekit.plugin.host import Host
from compilekit.plugin.steps import StoredPart
from compilekit.subject.load import no_progress_bars
from compilekit.subject.model import EntryPoint, Model

OnMismatch = Literal["error", "eager"]
PIPELINE = "pipeline"


def load(
    folder: Path,
    manifest: Manifest,
    *,
    host: Host,
    device: torch.device,
    on_mismatch: OnMismatch,
    on_uncovered: OnUncovered,
    check: Check,
    progress: Progress,
    copy: bool = False,
) -> Any:
    """Check a bundle, and load it."""
    _one_of("on_mismatch", on_mismatch, ("error", "eager"))
    _one_of("on_uncovered", on_uncovered, ("error", "eager"))
    _one_of("check", check, ("all", "code"))
    _check_device(manifest, device)
    # Tensors are on a device with an index, "cuda:0"; they are compared with it.
    device = torch.empty(0, device=device).device
    stage = progress.stage(f"loading {folder}")
    with stage, _collecting_later(), checking(folder, manifest, check) as finish:
        mismatches = differences(manifest, environment.fingerprint(str(device)), host)
        eager = _must_run_eagerly(folder, manifest, mismatches, on_mismatch)
        loaded = Loaded(folder, manifest, mismatches, eager)
        with torch.no_grad():
            loader = _Loader(folder, manifest, host, device, on_uncovered, loaded, copy)
            return loader.run(finish)


def torch_device(name: str) -> torch.device:
    """A device by its name: "cpu", "cuda:1"."""
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UsageError(f'device="{name}": torch knows no such device') from error


@contextlib.contextmanager
def _collecting_later() -> Iterator[None]:
    """Pause garbage collection: all objects made here stay, and scanning them takes time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        choices = " or ".join(f'"{choice}"' for choice in known)
        raise UsageError(f'{name}="{value}": say {choices}')


def _check_device(manifest: Manifest, device: torch.device) -> None:
    target = manifest.device
    if device.type != target:
        raise UsageError(f'the bundle is for "{target}", and cannot be loaded on "{device}"')
    module = getattr(torch, target, None)
    if target != "cpu" and (module is None or not module.is_available()):
        raise MachineError(
            f'the bundle is for "{target}", and torch {torch.__version__} sees no such device here'
        )


def misfit(folder: Path, mismatches: list[Difference]) -> str:
    """Why a bundle does not fit this machine; empty if it does."""
    lines = "".join(f"\n  {mismatch}" for mismatch in mismatches if mismatch.severity == "fatal")
    return lines and f"{folder} was built for another machine:{lines}"


def warn_of(folder: Path, mismatches: list[Difference]) -> None:
    """Warn of the differences that may matter."""
    for mismatch in mismatches:
        if mismatch.severity == "warning":
            warnings.warn(f"{folder}: {str(mismatch).removeprefix('warning: ')}", stacklevel=3)


def _must_run_eagerly(
    folder: Path, manifest: Manifest, mismatches: list[Difference], on_mismatch: OnMismatch
) -> bool:
    """Whether the bundle does not fit and runs eagerly; raises if it must not, or cannot."""
    warn_of(folder, mismatches)
    message = misfit(folder, mismatches)
    if not message:
        return False
    if on_mismatch == "error":
        hint = '\non_mismatch="eager" runs it without compiled code' if manifest.parts else ""
        raise MismatchError(f"{message}{hint}")
    for component in manifest.components:
        for row in component.tensors:
            if row.key is None:
                raise MismatchError(
                    f"{message}\nIt cannot run eagerly either: {component.name}.{row.name} is "
                    "inside of compiled code"
                )
    warnings.warn(f"{message}\nIt runs eagerly.", stacklevel=2)
    return True


@dataclass
class _Loader:
    folder: Path
    manifest: Manifest
    host: Host
    device: torch.device
    on_uncovered: OnUncovered
    loaded: Loaded
    copy: bool
    tensors: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    def run(self, finish_checking: Callable[[], None]) -> Any:
        modules = {c.name: self._bare(c) for c in self.manifest.components}
        subject = self._assembled(modules)
        model = model_of(subject)
        needs_python = {c.name for c in self.manifest.components if self._needs_python(c)}
        self._again(model, "structure", needs_python)
        for component in self.manifest.components:
            tensors = tensors_of(component, self.folder, self.device, copy=self.copy)
            self.tensors[component.name] = tensors
            fill(modules[component.name], component, tensors, self.device)
        # So far, modules were made of checked configs and weights were mapped. No code ran.
        finish_checking()
        seals = [] if self.loaded.eager else self._install(model)
        self._again(model, "runtime", set(modules))
        for module in modules.values():
            module.eval()  # modules that were made anew are in training mode
        self._close(model)
        attach(subject, self.loaded)
        for seal in seals:
            seal.take()
        return subject

    def _close(self, model: Model) -> None:
        """Refuse changes that compiled code would not see, and saving, which would lose parts."""
        why = f"this was loaded from the bundle {self.folder}: copy that folder instead of saving"
        modules, subject = model.modules, model.subject
        for owner in (*modules.values(), subject):
            refuse(owner, why)
        if self.loaded.eager:
            return
        compiled = {entry.component for entry in self.manifest.entries}
        for name in compiled:
            close(name, modules[name])
            attach(modules[name], self.loaded)
        blocks = (model.module(entry.owner) for entry in self.manifest.entries)
        for owner in (subject, *(modules[name] for name in compiled), *blocks):
            NoCopy(self.folder).forbid(owner)
        if model.is_pipeline and compiled:
            subject.to = PipelineMoves(subject.to, [modules[name] for name in compiled])
            if compiled & lora_components(subject, model.denoisers):
                close("this pipeline", subject, UNSEEN_OF_PIPELINES)

    def _bare(self, component: manifests.Component) -> nn.Module:
        if not component.library and (self.loaded.eager or not component.whole):
            raise MismatchError(f"{component.name}: there is no Python code in the bundle to run")
        entries = [entry for entry in self.manifest.entries if entry.owner == component.name]
        methods = [entry.method for entry in entries if entry.method != "forward"]
        return bare(component, self.folder / PIPELINE / component.name, methods)

    def _needs_python(self, component: manifests.Component) -> bool:
        """Whether its Python runs; then its layers must be those that the steps made."""
        if not component.library:
            return False
        return not component.whole or self.loaded.eager or self.on_uncovered == "eager"

    def _assembled(self, modules: Mapping[str, nn.Module]) -> Any:
        if self.manifest.kind == "module":
            return next(iter(modules.values()))
        import diffusers

        pipeline = getattr(diffusers, self.manifest.class_name, None)
        if not (isinstance(pipeline, type) and issubclass(pipeline, diffusers.DiffusionPipeline)):
            raise BundleError(f"diffusers has no pipeline {self.manifest.class_name} here")
        kind: Any = pipeline
        try:
            with no_progress_bars():
                return kind.from_pretrained(
                    self.folder / PIPELINE, **modules, local_files_only=True
                )
        except (OSError, ValueError, TypeError, ImportError, AttributeError) as error:
            raise BundleError(f"{self.folder / PIPELINE}: cannot be loaded: {error}") from error

    def _again(self, model: Model, kind: str, components: set[str]) -> None:
        """Run the steps again that are not compiled into weights or code."""
        for index, step in enumerate(self.manifest.steps):
            names = model.modules if ALL_COMPONENTS in step.components else step.components
            named = tuple(name for name in names if name.split(".")[0] in components)
            if step.again != kind or not named:
                continue
            again = planned(self.host, self.manifest, index)
            context = Context(
                step=again,
                components=named,
                device=self.manifest.device,
                purpose="load",
                remembered=step.remembered,
            )
            self.host.optimize_model(again, model, context)

    def _install(self, model: Model) -> list[Seal]:
        """Replace Python functions by compiled code."""
        # All are looked up before the first is loaded, because loading may run code.
        points = [(entry, entry_point(model, entry)) for entry in self.manifest.entries]
        loaded = [(entry, point, self._variants(entry)) for entry, point in points]
        # Each call checks the weights that its own code reads.
        seals = {entry.owner: Seal(entry.owner, point.owner) for entry, point in points}
        for entry, point, variants in loaded:
            compiled = CompiledEntry(
                entry.name,
                Binder(entry.name, entry.parameters, takes_any=entry.takes_any),
                variants,
                python=point.function,
                has_python=self._has_python(model.module(entry.component)),
                seal=seals[entry.owner],
                on_uncovered=self.on_uncovered,
            )
            point.replace(compiled)
            self.loaded.entries[entry.name] = compiled.counts
        return list(seals.values())

    def _has_python(self, module: nn.Module) -> bool:
        tensors = (*module.parameters(), *module.buffers())
        return not isinstance(module, Shell) and Placeholder not in map(type, tensors)

    def _variants(self, entry: manifests.Entry) -> list[Variant]:
        parts = [self.manifest.part(folder) for folder in entry.parts]
        return [variant_of(part, self._runner(entry, part), self.device) for part in parts]

    def _runner(self, entry: manifests.Entry, part: manifests.Part) -> Runner:
        tensors = self.tensors[entry.component]
        folder = self.folder / part.folder
        step = planned(self.host, self.manifest, part.step)
        stored = StoredPart(
            folder=folder,
            device=self.device,
            constants={name: tensors[entry.tensor(c)] for name, c in part.constants.items()},
            details=dict(part.details),
        )
        context = Context(
            step=step, components=step.components, device=self.manifest.device, purpose="load"
        )
        with blaming(folder, MachineError):
            return self.host.load_compiled(step.name, step.key, stored, context)


def entry_point(model: Model, entry: manifests.Entry) -> EntryPoint:
    """The model's entry point for a row of the manifest."""
    try:
        point = model.entry_point(entry.name)
    except CompilekitError as error:
        raise BundleError(f"entries: {entry.name}: {error}") from error
    if (point.component, point.method) != (entry.owner, entry.method):
        raise BundleError(f"entries: {entry.name} is not {entry.method} of {entry.owner}")
    return point


@contextlib.contextmanager
def blaming(folder: Path, *others: type[CompilekitError]) -> Iterator[None]:
    """Errors are the bundle's, and name its folder, but for these others."""
    try:
        yield
    except others:
        raise
    except CompilekitError as error:
        raise BundleError(f"{folder}: {error}") from error


def model_of(subject: Any) -> Model:
    """A handle on a loaded model. A plain module needs no inputs here: the user calls it."""
    return Model(subject, {"": torch.empty(0)} if isinstance(subject, nn.Module) else None)
