"""Writing a bundle: configs, tensors, recorded calls, and the rows of the manifest."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from compilekit.base import environment
from compilekit.base.nested import mapped
from compilekit.build.export import Compiled
from compilekit.build.keys import save_rest
from compilekit.bundle import constants, manifest
from compilekit.bundle.calls import TRUSTED, template
from compilekit.bundle.files import listed, remove_litter
from compilekit.engine.job import Job
from compilekit.engine.recording import Call, run_call
from compilekit.engine.reference import Outputs, outputs_of
from compilekit.errors import CompilekitError, ModelError, StepError
from compilekit.load.parts import PIPELINE
from compilekit.load.skeleton import home_of, save_config
from compilekit.measure.compare import compare
from compilekit.plan.plan import Plan
from compilekit.plugin.steps import PlannedStep
from compilekit.report import Report
from compilekit.subject.model import METHODS, float_dtype

SAMPLE = "sample"


@dataclass(frozen=True)
class Writer:
    """Writes the finished model of a build into a folder."""

    folder: Path
    job: Job
    compiled: Sequence[Compiled]

    def write(
        self,
        report: Report,
        remembered: Mapping[int, Mapping[str, Any]],
        calls: Mapping[str, Sequence[tuple[Call, Outputs]]],
    ) -> manifest.Manifest:
        """Write everything but the manifest, which is returned and written last."""
        model = self.job.model
        components = [self._component(name, module) for name, module in model.modules.items()]
        if model.is_pipeline:
            save_rest(model.subject, self.folder / PIPELINE)
        replay = self._replay(calls)
        parts = {part.row.folder: part.row for block in self.compiled for part in block.parts}
        return manifest_of(
            self.folder,
            self.job,
            report,
            remembered,
            components=tuple(components),
            entries=tuple(map(_entry, self.compiled)),
            parts=tuple(parts.values()),
            fingerprint=environment.fingerprint(self.job.plan.device),
            replay=tuple(replay),
        )

    def _component(self, name: str, module: nn.Module) -> manifest.Component:
        home = home_of(module)
        blocks = [block for block in self.compiled if block.component == name]
        names = {block.entry.name for block in blocks}
        whole = _is_whole(module, names, name)
        if home is None and name not in names:
            raise ModelError(
                f"{name}: {type(module).__name__} is no class of {' or '.join(TRUSTED)}, so its "
                "Python code would not be where the bundle is loaded; compile it whole"
            )
        tensors = constants.held_by(module)
        packed, read = _reads(blocks, name)
        loose = [] if whole else _uncompiled(tensors, blocks, name, read)
        if loose:
            raise StepError(
                f"{name}: {loose[0]} is quantised, and nothing compiles it; a bundle holds "
                "quantised weights only inside of compiled code: compile it, or leave it out "
                f"of the quantising step ({len(loose)} such weights)"
            )
        rows = []
        for row in (held.row for held in tensors):
            if row.name in packed - read or (row.kind == "inner" and row.name not in read):
                rows.append(row.model_copy(update={"key": None}))
            else:
                rows.append(row)
        # A tied tensor's first name may have been packed, and another not.
        keys = {row.key for row in rows if row.key}
        stored = {h.row.key: h.tensor for h in tensors if h.row.key and h.row.key in keys}
        extra = {key: t for b in blocks for part in b.parts for key, t in part.extra.items()}
        rows += [constants.row_of(key, "extra", tensor, key=key) for key, tensor in extra.items()]
        path = f"constants/{name}.safetensors" if stored or extra else None
        if path:
            constants.save({**stored, **extra}, self.folder / path)
        if home is not None:
            save_config(module, self.folder / PIPELINE / name)
        library, class_name = home or ("", type(module).__name__)
        return manifest.Component(
            name=name,
            library=library,
            class_name=class_name,
            whole=whole or home is None,
            constants=path,
            tensors=tuple(rows),
        )

    def _replay(self, calls: Mapping[str, Sequence[tuple[Call, Outputs]]]) -> list[manifest.Replay]:
        """One recorded call of each signature, with the reference's outputs and our error."""
        rows: list[manifest.Replay] = []
        tensors: dict[str, torch.Tensor] = {}
        for name, recorded in calls.items():
            for call, reference in {call.signature: (call, out) for call, out in recorded}.values():
                row = self._replay_row(len(rows), name, call, reference, tensors)
                if row is not None:
                    rows.append(row)
        if rows:
            constants.save(tensors, self.folder / manifest.REPLAY)
        return rows

    def _replay_row(
        self,
        number: int,
        name: str,
        call: Call,
        reference: Outputs,
        tensors: dict[str, torch.Tensor],
    ) -> manifest.Replay | None:
        entry = self.job.model.entry_point(name)
        args, kwargs = call.inputs(float_dtype(entry.owner))
        inputs: list[torch.Tensor] = []
        try:
            arguments = template(mapped([list(args), kwargs], _seedless), inputs)
        except CompilekitError:
            return None  # an argument that no file can hold
        tensors |= {f"{number}.in.{i}": tensor.contiguous() for i, tensor in enumerate(inputs)}
        tensors |= {f"{number}.out.{i}": t.contiguous() for i, (_, t) in enumerate(reference)}
        actual = outputs_of(run_call(entry, call))
        error = compare([t for _, t in actual], [t for _, t in reference]).relative_l2
        return manifest.Replay(
            entry=name, seed=call.index, arguments=arguments, outputs=len(reference), error=error
        )


def _entry(block: Compiled) -> manifest.Entry:
    return manifest.Entry(
        name=block.entry.name,
        component=block.component,
        owner=block.entry.component,
        method=block.entry.method,
        parameters=block.parameters,
        takes_any=block.takes_any,
        parts=tuple(part.row.folder for part in block.parts),
    )


def manifest_of(
    folder: Path,
    job: Job,
    report: Report,
    remembered: Mapping[int, Mapping[str, Any]],
    **contents: Any,
) -> manifest.Manifest:
    """The manifest of a folder in which all other files have been written."""
    plan, subject = job.plan, job.model.subject
    pictures = _pictures(plan, folder)
    remove_litter(folder)
    bundle = manifest.Manifest(
        compilekit_bundle=1,
        compilekit=environment.installed_version("compilekit") or "",
        name=plan.recipe.name,
        device=plan.device,
        digest=plan.digest,
        recipe=plan.to_dict(),
        sample=pictures,
        kind="pipeline" if plan.whole or job.model.is_pipeline else "module",
        class_name=type(subject).__name__,
        steps=tuple(_step(step, job, remembered.get(step.index, {})) for step in plan.steps),
        plugins={step.name: job.host.plugins[step.name].version for step in plan.steps},
        report=report.model_dump(mode="json", fallback=str),
        files=tuple(listed(folder)),
        **contents,
    )
    # Parsing checks more than making does.
    return manifest.Manifest.parse(bundle.to_json().encode())


def _step(step: PlannedStep, job: Job, remembered: Mapping[str, Any]) -> manifest.Step:
    again: Literal["never", "structure", "runtime"] = "never"
    # The results of steps before the export of a whole pipeline are compiled in.
    if job.plan.whole is None and not step.description.exports:
        again = "runtime" if "runtime" in step.effects.changes else again
        again = "structure" if "structure" in step.effects.changes else again
    return manifest.Step(
        name=step.name,
        plugin=job.host.plugins[step.name].version,
        components=step.components,
        options=step.options.model_dump(mode="json"),
        again=again,
        remembered=dict(remembered),
    )


def _pictures(plan: Plan, folder: Path) -> dict[str, Any]:
    """The sample, with copies of its images, so that the bundle runs without other files."""
    from compilekit.subject.sample import picture_names

    sample = copy.deepcopy(plan.recipe.sample)
    for name, source in picture_names(plan.recipe).items():
        target = folder / SAMPLE / f"{name}{source.suffix.lower()}"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(source.read_bytes())
        sample[name] = f"{SAMPLE}/{target.name}"
    return sample


def _seedless(_: str, leaf: Any) -> Any:
    """No generators: a replay seeds the process instead."""
    return None if isinstance(leaf, torch.Generator) else leaf


def _is_whole(module: nn.Module, compiled: set[str], name: str) -> bool:
    """Whether compiled code serves all of a component."""
    inner = [f"{name}.{m}" for m in METHODS[1:] if callable(getattr(module, m, None))]
    return compiled.issuperset(inner or [name])


def _reads(blocks: Sequence[Compiled], name: str) -> tuple[set[str], set[str]]:
    """The component's tensors that are packed into parts, and those that parts read."""
    packed: set[str] = set()
    read: set[str] = set()
    for block in blocks:
        prefix = _prefix(block, name)
        for part in block.parts:
            packed |= {prefix + weight for weight in part.part.packed}
            sources = part.row.constants.values()
            read |= {prefix + s.removeprefix("tensor:") for s in sources if s.startswith("tensor:")}
    return packed, read


def _prefix(block: Compiled, name: str) -> str:
    """What the names of an entry point's tensors begin with in its component: "decoder."."""
    owner = block.entry.component.removeprefix(name).lstrip(".")
    return f"{owner}." if owner else ""


def _uncompiled(
    tensors: Sequence[constants.Held], blocks: Sequence[Compiled], name: str, read: set[str]
) -> list[str]:
    """Quantised weights that would be used by Python code, not by compiled code."""
    prefixes = tuple(filter(None, (_prefix(block, name) for block in blocks)))
    return [
        held.row.name
        for held in tensors
        if held.row.inner
        and not held.row.name.startswith(prefixes)
        and read.isdisjoint(held.row.inner)
    ]
