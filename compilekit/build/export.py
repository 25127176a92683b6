"""One exporting step of a build: capture calls, compile, load the parts, and verify them."""

from __future__ import annotations

import shutil
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from compilekit.base.words import Range, Sizes
from compilekit.build.alike import likeness, part_name
from compilekit.build.capture import Captured, capture
from compilekit.build.flat import Flat, inputs_of
from compilekit.build.reuse import Exported, Place, Reuse
from compilekit.build.signatures import Group, groups_of, widened
from compilekit.bundle import manifest
from compilekit.bundle.calls import (
    Binder,
    dense,
    leaves,
    named,
    order_of,
    parameters_of,
    template,
)
from compilekit.bundle.constants import held_by, identity, is_quantised
from compilekit.bundle.files import remove_litter
from compilekit.bundle.signature import RETURN_DICT, Signature, TensorArgument
from compilekit.errors import StepError, SymbolicShapeError, VerificationError
from compilekit.load.entry import CompiledEntry, Variant, variant_of
from compilekit.measure.compare import compare
from compilekit.plugin.contexts import ExportContext, StepContext
from compilekit.plugin.host import Host
from compilekit.plugin.steps import Part, PlannedStep, StepResult, StoredPart
from compilekit.subject.model import EntryPoint, Model, cuda_devices, float_dtype

CPU = torch.device("cpu")
ROUGH = 0.1
"""How far compiled code may be from eager code if both round to 16 bits or less."""


@dataclass(frozen=True)
class Compiled:
    """A compiled entry point and its parts."""

    entry: EntryPoint
    python: Callable[..., Any]
    component: str
    parameters: tuple[manifest.Parameter, ...]
    takes_any: bool
    parts: tuple[Exported, ...]


@dataclass
class Export:
    """Exports the components of one step, and puts the loaded parts in their place."""

    step: PlannedStep
    position: int
    context: StepContext
    model: Model
    host: Host
    folder: Path
    sizes: Sizes
    reuse: Reuse
    parts: dict[tuple[str, Signature], list[Exported]] = field(default_factory=dict)

    def run(
        self, runs: Sequence[Mapping[str, Any]], sample: Callable[[Mapping[str, Any]], Any]
    ) -> tuple[StepResult, list[Compiled]]:
        """Export everything; returns the step's result and the compiled entry points."""
        start = time.perf_counter()
        regions = self.host.regions(self.step, self.model, self.context)
        entries = [self.model.entry_point(name) for name in regions or self.context.components]
        self.context.progress("capturing calls")
        calls = capture(entries, runs, sample)
        compiled: list[Compiled] = []
        called = [entry for entry in entries if calls[entry.name]]
        # Some blocks may have no call: those of the unused half of a VAE, for example.
        if not called or (len(called) < len(entries) and regions is None):
            idle = next(entry.name for entry in entries if not calls[entry.name])
            raise StepError(
                f"{self.step.key}: {idle}: the sample never calls it, so there is nothing to "
                "compile. For a VAE, name `vae.decode` or `vae.encode`"
            )
        for number, entry in enumerate(called, 1):
            self.context.progress(f"compiling {entry.name} ({number} of {len(called)})")
            compiled.append(self._compile(entry, calls[entry.name]))
        # Installed last: a block inside another must be exported as Python.
        for block in compiled:
            self._install(block)
        return _result(compiled, time.perf_counter() - start), compiled

    def _compile(self, entry: EntryPoint, calls: Sequence[Captured]) -> Compiled:
        calls = [widened(call) for call in calls]
        for call in calls:
            _refuse_objects(self.step, call)
        parameters, takes_any = parameters_of(entry.function)
        groups = groups_of(calls, self.sizes)
        if self.sizes == "one" and len(groups) > 1:
            sizes = "\n".join(f"  {group.signature}" for group in groups)
            raise StepError(
                f"{self.step.key}: with these options a part serves calls of one size, and the "
                f"sample calls {entry.name} with {len(groups)}:\n{sizes}"
            )
        parts = [part for group in groups for part in self._parts(group)]
        component = entry.name.split(".")[0]
        return Compiled(entry, entry.function, component, parameters, takes_any, tuple(parts))

    def _parts(self, group: Group) -> list[Exported]:
        """The parts for a group of calls: those of an equal entry point, or new ones."""
        alike = likeness(group.example.entry)
        known = self.parts.get((alike, group.signature))
        if known is not None:
            # They look equal; a comparison with this entry point's own Python decides.
            for part in known:
                self._verify(part, group)
            return known
        try:
            parts = [self._export(group, alike)]
        except (SymbolicShapeError, VerificationError) as error:
            if not any(map(_symbols, group.signature.tensors)):
                raise
            self.context.progress(f"fixed sizes: {error}")
            fixed = groups_of(group.calls, "fixed")
            parts = [part for smaller in fixed for part in self._parts(smaller)]
        self.parts[alike, group.signature] = parts
        return parts

    def _export(self, group: Group, alike: str) -> Exported:
        entry = group.example.entry
        component = entry.name.partition(".")[0]
        where = f"parts/{component}/{part_name(alike, self.position, group.signature)}"
        inputs = inputs_of(group.example)
        place = Place(self.folder, where, self.position, _device([*inputs, *_tensors(entry)]))
        try:
            return self.reuse.part(
                self.step,
                group,
                place,
                make=lambda: self._new(group, place, inputs),
                verify=lambda exported: self._verify(exported, group),
            )
        except (SymbolicShapeError, VerificationError):
            shutil.rmtree(place.path, ignore_errors=True)
            raise

    def _new(self, group: Group, place: Place, inputs: tuple[torch.Tensor, ...]) -> Exported:
        entry, signature = group.example.entry, group.signature
        place.path.mkdir(parents=True)
        context = ExportContext(
            **vars(self.context),
            entry=entry.name,
            flat=Flat(group.example),
            inputs=inputs,
            symbols=tuple(map(_symbols, signature.tensors)),
        )
        with torch.no_grad():
            part = self.host.export(self.step, self.model, place.path, context)
        remove_litter(place.path)
        _refuse_gaps(self.step, entry, part)
        constants, extra = _sources(entry, part, place)
        row = manifest.Part(
            folder=place.where,
            step=self.position,
            signature=signature,
            constants=constants,
            details=dict(part.details),
            **_outputs(group.example),
        )
        device = _device([*_tensors(entry), *part.constants.values()])
        exported = Exported(row, part, extra, device)
        self._verify(exported, group)
        return exported

    def load(self, entry: EntryPoint, exported: Exported) -> Variant:
        """Load a part for an entry point, with that entry point's tensors."""
        tensors = {held.row.name: held.tensor for held in held_by(entry.owner)}
        constants = {
            name: exported.extra[source.removeprefix("extra:")]
            if source.startswith("extra:")
            else tensors[source.removeprefix("tensor:")]
            for name, source in exported.row.constants.items()
        }
        folder = self.folder / exported.row.folder
        stored = StoredPart(
            folder=folder, device=exported.device, constants=constants, details=exported.row.details
        )
        run = self.host.load_compiled(self.step.name, self.step.key, stored, self.context)
        return variant_of(exported.row, run, exported.device)

    def _verify(self, exported: Exported, group: Group) -> None:
        """Compare compiled code with the Python that it replaces, in every size."""
        entry = group.example.entry
        variant = self.load(entry, exported)
        dtype = float_dtype(entry.owner)
        exact = dtype in (torch.float32, torch.float64) and not any(
            is_quantised(held.tensor) for held in held_by(entry.owner)
        )
        limit = self.step.budget if exact else max(self.step.budget, ROUGH)
        for call in group.calls:
            if variant.signature.misfit(named(leaves(call.arguments))):
                continue  # another part of the group serves it
            with torch.no_grad():
                expected: list[torch.Tensor] = []
                output = template(call.again(), expected)
                if output not in (exported.row.output, exported.row.as_tuple):
                    raise SymbolicShapeError(
                        f"{self.step.key}: {entry.name}: the form of its result depends on sizes"
                    )
                actual = variant.run([*inputs_of(call)])
            if len(actual) != len(expected):
                raise VerificationError(
                    f"{self.step.key}: {entry.name}: the part gives {len(actual)} tensors, and "
                    f"the entry point {len(expected)}"
                )
            if not any(tensor.numel() for tensor in expected):
                raise StepError(
                    f"{self.step.key}: {entry.name}: its result holds no element of a tensor, so "
                    "there is nothing to compare compiled code with"
                )
            difference = compare(list(actual), expected)
            if not difference.finite or not difference.relative_l2 <= limit:
                raise VerificationError(
                    f"{self.step.key}: {entry.name}: compiled for {variant.signature}, it is "
                    f"{difference.relative_l2:.2g} (relative L2) away from the Python code, and "
                    f"may be {limit:.2g}"
                )

    def _install(self, compiled: Compiled) -> None:
        entry = compiled.entry
        binder = Binder(entry.name, compiled.parameters, takes_any=compiled.takes_any)
        variants = [self.load(entry, part) for part in compiled.parts]
        entry.replace(CompiledEntry(entry.name, binder, variants, python=compiled.python))


def _result(compiled: Sequence[Compiled], seconds: float) -> StepResult:
    matched: dict[str, list[str]] = defaultdict(list)
    for block in compiled:
        name = f"{block.entry.name} ({type(block.entry.owner).__name__})"
        matched[block.component].append(name)
    parts = {part.row.folder: part for block in compiled for part in block.parts}
    result = StepResult(matched=dict(matched), changed=dict(matched))
    result.details = {
        "compile_seconds": round(seconds, 2),
        "entry_points": len(compiled),
        "from_cache": sum(part.cached for part in parts.values()),
        "parts": [f"{folder}: {part.row.signature}" for folder, part in parts.items()],
    }
    return result


def _tensors(entry: EntryPoint) -> list[torch.Tensor]:
    return [*entry.owner.parameters(), *entry.owner.buffers()]


def _device(tensors: Iterable[torch.Tensor]) -> torch.device:
    return next((t.device for t in tensors if t.device.type != "cpu"), CPU)


def _refuse_gaps(step: PlannedStep, entry: EntryPoint, part: Part) -> None:
    """Refuse constants with gaps: compiled code knows their strides, and a bundle stores none."""
    for name, tensor in part.constants.items():
        if tensor.stride() != dense(tensor.shape, order_of(tensor)) and tensor.numel() > 1:
            raise StepError(
                f"{step.key}: {entry.name}: its constant {name} has gaps in memory; make it "
                "contiguous before the build"
            )


def _refuse_objects(step: PlannedStep, call: Captured) -> None:
    values = leaves(call.arguments)
    for path, leaf in named(values).items():
        if leaf is None and not isinstance(values[path], torch.Generator):
            raise StepError(
                f"{step.key}: {call.entry.name} is called with a {type(values[path]).__name__} as "
                f"{path}, which a bundle cannot hold; compile another entry point"
            )


def _symbols(tensor: TensorArgument) -> dict[int, Range]:
    return {index: size for index, size in enumerate(tensor.shape) if isinstance(size, Range)}


def _sources(
    entry: EntryPoint, part: Part, place: Place
) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Where the bundle stores each constant: with the module's tensors, or beside them."""
    stored = {identity(h.tensor): h.row.name for h in held_by(entry.owner) if h.row.key is not None}
    sources: dict[str, str] = {}
    extra: dict[str, torch.Tensor] = {}
    for name, tensor in part.constants.items():
        known = stored.get(identity(tensor))
        if known is None:
            key = place.extra_name(len(extra))
            extra[key] = tensor
            sources[name] = f"extra:{key}"
        else:
            sources[name] = f"tensor:{known}"
    return sources, extra


def _outputs(call: Captured) -> dict[str, Any]:
    """How to rebuild the result, for each value of `return_dict`."""
    function = call.entry.function

    def result(**changes: Any) -> tuple[manifest.Output, int]:
        tensors: list[torch.Tensor] = []
        return template(call.again(**changes), tensors), len(tensors)

    with torch.no_grad(), torch.random.fork_rng(devices=cuda_devices()):
        output, count = result()
        parameters, takes_any = parameters_of(function)
        if not takes_any and RETURN_DICT not in {parameter.name for parameter in parameters}:
            return {"output": output}
        try:
            with warnings.catch_warnings():
                # The user did not make this call, so its deprecation warnings do not matter.
                warnings.simplefilter("ignore")
                outputs = {value: result(**{RETURN_DICT: value}) for value in (True, False, None)}
        except (TypeError, ValueError):  # it takes other keywords, and not this one
            return {"output": output}
    # Compiled code returns the tensors of the captured call, and no others.
    as_dict, as_tuple = (outputs[v][0] if outputs[v][1] == count else None for v in (True, False))
    return {
        "output": as_dict,
        "as_tuple": as_tuple,
        "none_is_dict": outputs[None][0] == outputs[True][0],
    }
