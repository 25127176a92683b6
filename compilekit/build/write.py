"""Writing a bundle: configs, tensors, recorded calls, and the rows of the manifest."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from compilekit.base import environment
from compilekit.base.nested import mapped
from compilekit.build.export import Compiled
from compilekit.bundle import constants, manifest
from compilekit.bundle.calls import TRUSTED, template
from compilekit.bundle.files import listed
from compilekit.engine.recording import Call, run_call
from compilekit.engine.reference import Outputs, outputs_of
from compilekit.engine.run import Outcome
from compilekit.errors import CompilekitError, ModelError, StepError
from compilekit.load.parts import PIPELINE
from compilekit.load.skeleton import home_of, save_config
from compilekit.measure.compare import compare
from compilekit.plan.plan import Plan
from compilekit.plugin.host import Host
from compilekit.plugin.steps import PlannedStep
from compilekit.subject.model import METHODS, Model, float_dtype

SAMPLE = "sample"


def check_subject(model: Model) -> None:
    """Check before the work starts that another process could make this pipeline."""
    if not model.is_pipeline:
        return
    import diffusers

    for name, module in model.modules.items():
        if home_of(module) is None:
            raise ModelError(
                f"{name}: {type(module).__name__} is no class of {' or '.join(TRUSTED)}, so the "
                "pipeline could not be loaded without your code"
            )
    kind = type(model.subject)
    if getattr(diffusers, kind.__name__, None) is not kind:
        raise ModelError(
            f"{kind.__name__} is not one of diffusers' own pipelines, so a bundle could not be "
            "loaded without your code: build a bundle of its components instead"
        )


class Writer:
    """Writes the finished model of a build into a folder."""

    def __init__(
        self, folder: Path, plan: Plan, model: Model, host: Host, compiled: Sequence[Compiled]
    ) -> None:
        self.folder = folder
        self.plan = plan
        self.model = model
        self.host = host
        self.compiled = compiled

    def write(
        self,
        outcome: Outcome,
        remembered: Mapping[int, Mapping[str, Any]],
        calls: Mapping[str, Sequence[tuple[Call, Outputs]]],
    ) -> manifest.Manifest:
        """Write everything but the manifest, which is returned and written last."""
        components = [self._component(name, each) for name, each in self.model.modules.items()]
        if self.model.is_pipeline:
            self._pipeline()
        replay = self._replay(calls)
        said = self.plan.to_dict()
        parts = {made.row.folder: made.row for each in self.compiled for made in each.parts}
        made = manifest.Manifest(
            compilekit_bundle=1,
            compilekit=environment.installed_version("compilekit") or "",
            name=self.plan.recipe.name,
            device=self.plan.device,
            digest=self.plan.digest,
            recipe=said,
            sample=pictures_of(self.plan, self.folder),
            kind="pipeline" if self.model.is_pipeline else "module",
            class_name=type(self.model.subject).__name__,
            components=tuple(components),
            entries=tuple(self._entry(each) for each in self.compiled),
            parts=tuple(parts.values()),
            steps=planned_rows(self.plan, self.host, remembered),
            plugins={s.name: self.host.plugins[s.name].version for s in self.plan.steps},
            fingerprint=environment.fingerprint(self.plan.device),
            report=outcome.report.model_dump(mode="json", fallback=str),
            replay=tuple(replay),
            files=tuple(listed(self.folder)),
        )
        # Parsing checks more than making does.
        return manifest.Manifest.parse(made.to_json().encode())

    def _component(self, name: str, module: nn.Module) -> manifest.Component:
        home = home_of(module)
        mine = [each for each in self.compiled if each.component == name]
        names = {each.entry.name for each in mine}
        whole = _is_whole(module, names, name)
        if home is None and name not in names:
            raise ModelError(
                f"{name}: {type(module).__name__} is no class of {' or '.join(TRUSTED)}, so its "
                "Python code would not be where the bundle is loaded; compile it whole"
            )
        held = constants.held_by(module)
        packed, read = _reads(mine, name)
        loose = [] if whole else _uncompiled(held, mine, name)
        if loose:
            raise StepError(
                f"{name}: {loose[0]} is quantised, and nothing compiles it; a bundle holds "
                "quantised weights only inside of compiled code: compile it, or leave it out "
                f"of the quantising step ({len(loose)} such weights)"
            )
        rows, stored = [], {}
        for each in held:
            row = each.row
            if row.name in packed - read or (row.kind == "inner" and row.name not in read):
                row = row.model_copy(update={"key": None})
            elif row.key == row.name:
                stored[row.key] = each.tensor
            rows.append(row)
        # A tied tensor's first name may have been packed, and another not.
        kept = {row.key for row in rows if row.key}
        stored |= {each.row.key: each.tensor for each in held if each.row.key in kept}
        extra = {key: t for each in mine for made in each.parts for key, t in made.extra.items()}
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

    def _pipeline(self) -> None:
        """The index, and the components that are not modules, as diffusers writes them."""
        target = self.folder / PIPELINE
        subject = self.model.subject
        subject.save_config(target)
        for name, part in subject.components.items():
            if not isinstance(part, nn.Module) and hasattr(part, "save_pretrained"):
                part.save_pretrained(target / name)

    def _entry(self, each: Compiled) -> manifest.Entry:
        return manifest.Entry(
            name=each.entry.name,
            component=each.component,
            owner=each.entry.component,
            method=each.entry.method,
            parameters=each.parameters,
            takes_any=each.takes_any,
            parts=tuple(made.row.folder for made in each.parts),
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
        entry = self.model.entry_point(name)
        args, kwargs = call.inputs(float_dtype(entry.owner))
        found: list[torch.Tensor] = []
        try:
            arguments = template(mapped([list(args), kwargs], _seedless), found)
        except CompilekitError:
            return None  # an argument that no file can hold
        tensors |= {f"{number}.in.{i}": tensor.contiguous() for i, tensor in enumerate(found)}
        tensors |= {f"{number}.out.{i}": t.contiguous() for i, (_, t) in enumerate(reference)}
        actual = outputs_of(run_call(entry, call))
        error = compare([t for _, t in actual], [t for _, t in reference]).relative_l2
        return manifest.Replay(
            entry=name, seed=call.index, arguments=arguments, outputs=len(reference), error=error
        )


def planned_rows(
    plan: Plan, host: Host, remembered: Mapping[int, Mapping[str, Any]]
) -> tuple[manifest.Step, ...]:
    """The steps as a manifest lists them."""
    return tuple(_step(step, host, remembered.get(step.index, {})) for step in plan.steps)


def _step(step: PlannedStep, host: Host, remembered: Mapping[str, Any]) -> manifest.Step:
    changes = step.effects.changes
    again: Literal["never", "structure", "runtime"] = "never"
    if not step.description.exports:
        again = "runtime" if "runtime" in changes else again
        again = "structure" if "structure" in changes else again
    return manifest.Step(
        name=step.name,
        plugin=host.plugins[step.name].version,
        components=step.components,
        options=step.options.model_dump(mode="json"),
        again=again,
        remembered=dict(remembered),
    )


def pictures_of(plan: Plan, folder: Path) -> dict[str, Any]:
    """The sample, with copies of its images, so that the bundle runs without other files."""
    from compilekit.subject.sample import picture_names

    found = copy.deepcopy(plan.recipe.sample)
    for name, source in picture_names(plan.recipe).items():
        target = folder / SAMPLE / f"{name}{source.suffix.lower()}"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(source.read_bytes())
        found[name] = f"{SAMPLE}/{target.name}"
    return found


def _seedless(_: str, leaf: Any) -> Any:
    """No generators: a replay seeds the process instead."""
    return None if isinstance(leaf, torch.Generator) else leaf


def _is_whole(module: nn.Module, compiled: set[str], name: str) -> bool:
    """Whether compiled code serves all of a component."""
    inner = [m for m in METHODS[1:] if callable(getattr(module, m, None))]
    if inner:
        return all(f"{name}.{method}" in compiled for method in inner)
    return name in compiled


def _reads(mine: Sequence[Compiled], name: str) -> tuple[set[str], set[str]]:
    """The component's tensors that are packed into parts, and those that parts read."""
    packed: set[str] = set()
    read: set[str] = set()
    for each in mine:
        owner = each.entry.component.removeprefix(name).lstrip(".")
        prefix = f"{owner}." if owner else ""
        for made in each.parts:
            packed |= {f"{prefix}{weight}" for weight in made.part.packed}
            sources = made.row.constants.values()
            read |= {prefix + s.removeprefix("tensor:") for s in sources if s.startswith("tensor:")}
    return packed, read


def _uncompiled(held: Sequence[constants.Held], mine: Sequence[Compiled], name: str) -> list[str]:
    """Quantised weights that would be used by Python code, not by compiled code."""
    owners = [each.entry.component.removeprefix(name).lstrip(".") for each in mine]
    _, read = _reads(mine, name)
    return [
        each.row.name
        for each in held
        if each.row.inner
        and not any(each.row.name.startswith(f"{owner}.") for owner in owners if owner)
        and not set(each.row.inner) & read
    ]
