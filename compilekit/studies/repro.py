"""Reproducers: what a failed run leaves, and running its failing step again, alone.

A folder holds the recipe, the plugins from files, the environment, the traceback, the report, and
configs of the model. No weights: they come from the model, or are random.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compilekit.base import environment
from compilekit.base.words import Purpose
from compilekit.bundle.calls import TRUSTED
from compilekit.engine.job import Job
from compilekit.engine.run import Execution
from compilekit.errors import CompilekitError, RecipeError, UsageError
from compilekit.load.skeleton import home_of, save_config
from compilekit.plan.plan import Plan
from compilekit.recipe import Recipe
from compilekit.subject.load import no_progress_bars
from compilekit.subject.model import Model, float_dtype
from compilekit.subject.sample import picture_names

if TYPE_CHECKING:
    from compilekit.plugin.steps import PlannedStep

FOLDER = "COMPILEKIT_REPRO"
"""The environment variable: where reproducers go, `repro` if it is not set; empty for none."""
RECIPE, STATE, PIPELINE, INPUTS = "recipe.yaml", "state.json", "pipeline", "inputs.json"


@contextlib.contextmanager
def reproducible(job: Job) -> Iterator[None]:
    """Leave a reproducer if the block fails."""
    description = described(job.model)
    try:
        yield
    except (UsageError, RecipeError):
        raise  # the message says it all
    except Exception as error:
        base = os.environ.get(FOLDER, "repro")
        if base:
            _note(error, _left(Path(base), error, job, description))
        raise


def _note(error: Exception, found: Path | str) -> None:
    if isinstance(found, Path) and isinstance(error, CompilekitError):
        error.repro = found
    told = found if isinstance(found, str) else f"replay it with: compilekit replay {found}"
    if hasattr(error, "add_note"):  # Python 3.11
        error.add_note(told)


def _left(base: Path, error: Exception, job: Job, description: Mapping[str, Any]) -> Path | str:
    """The folder, or why there is none: the first error must not be hidden by a second."""
    step = _step_of(error, job.plan)
    name = re.sub(r"[^\w.-]+", "-", job.plan.recipe.name)[:60]
    folder = base / f"{name}-{step.name if step else 'run'}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in range(2, 100):
        if not folder.exists():
            break
        folder = folder.with_name(f"{folder.name.rpartition('+')[0] or folder.name}+{number}")
    try:
        folder.mkdir(parents=True)
        _write(folder, error, step, job, description)
    except OSError as problem:
        shutil.rmtree(folder, ignore_errors=True)
        return f"no reproducer was left in {base}: {problem.strerror}"
    return folder


def _step_of(error: Exception, checked: Plan) -> PlannedStep | None:
    index = getattr(error, "step", None)
    return next((step for step in checked.steps if step.index == index), None)


def _write(
    folder: Path,
    error: Exception,
    step: PlannedStep | None,
    job: Job,
    description: Mapping[str, Any],
) -> None:
    recipe, model = job.plan.recipe, job.model
    pictures = picture_names(recipe)
    for name, source in pictures.items():
        shutil.copyfile(source, folder / f"{name}{source.suffix}")
    own = {name: f"{name}{source.suffix}" for name, source in pictures.items()}
    recipe = recipe.model_copy(update={"sample": {**recipe.sample, **own}})
    (folder / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
    files = [Path(job.host.plugins[each.name].origin) for each in job.plan.steps]
    for file in {file for file in files if file.is_file()}:
        (folder / "plugins").mkdir(exist_ok=True)
        shutil.copyfile(file, folder / "plugins" / file.name)
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    (folder / "traceback.txt").write_text(text, encoding="utf-8")
    _json(folder / "environment.json", environment.describe(job.plan.device))
    report = getattr(error, "report", None)
    if report is not None:
        (folder / "report.json").write_text(report.to_json(), encoding="utf-8")
    state = {
        "purpose": job.plan.purpose,
        "failed": None if step is None else {"index": step.index, "step": step.name},
        "error": f"{type(error).__name__}: {error}",
        "model": description,
    }
    _json(folder / STATE, state)
    for name, module in model.modules.items():
        if home_of(module) is not None:
            save_config(module, folder / PIPELINE / name)
    if model.is_pipeline:
        model.subject.save_config(folder / PIPELINE)
        for name, part in model.subject.components.items():
            if not isinstance(part, nn.Module) and hasattr(part, "save_pretrained"):
                part.save_pretrained(folder / PIPELINE / name)


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")


def described(model: Model) -> dict[str, Any]:
    """The classes, dtypes and sizes of a model's components, and its inputs."""
    components = {}
    for name, module in model.modules.items():
        library, kind = home_of(module) or (type(module).__module__, type(module).__qualname__)
        components[name] = {
            "library": library,
            "class": kind,
            "dtype": str(float_dtype(module)).removeprefix("torch."),
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
        }
    inputs = {
        name: {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        for name, value in model.inputs.items()
        if isinstance(value, torch.Tensor)
    }
    subject = type(model.subject)
    return {
        "class": subject.__name__,
        "is_pipeline": model.is_pipeline,
        "components": components,
        "inputs": inputs,
    }


@dataclass(frozen=True)
class Reproducer:
    """The folder that a failed run left."""

    folder: Path
    recipe: Recipe
    state: Mapping[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> Reproducer:
        """Read the recipe and the state; the model is made later."""
        place = Path(folder)
        state = _state(place)
        return cls(place, Recipe.load(place / RECIPE), state)

    @property
    def purpose(self) -> Purpose:
        """Whether `apply` or `build` failed."""
        purpose: Purpose = self.state["purpose"]
        return purpose

    @property
    def plugins(self) -> list[Path]:
        """Plugins that the run loaded from files."""
        return sorted((self.folder / "plugins").glob("*.py"))

    @property
    def inputs(self) -> dict[str, torch.Tensor] | None:
        """Random inputs of a plain module, unless the recipe describes some."""
        described = self.recipe.model is not None and self.recipe.model.inputs
        return None if described else _random(self.state["model"]["inputs"])

    def remade(self) -> Any:
        """A model with the same configs and random weights."""
        return _remade(self.folder / PIPELINE, self.state["model"])

    def replay(self, job: Job) -> str:
        """Run the failing step again; raises what it raises, or says that it passes."""
        failed = self.state["failed"]
        steps = {step.index: step for step in job.plan.steps}
        step = None if failed is None else steps[failed["index"]]
        if self.purpose == "build":
            from compilekit.build.run import replay

            with tempfile.TemporaryDirectory() as scratch:
                replay(job, Path(scratch), step)
        elif step is None:
            Execution(job).run()
        else:
            Execution(job).run_alone(step)
        return f"{'the run' if step is None else step.key} does not fail here"


def _state(folder: Path) -> dict[str, Any]:
    try:
        found: Any = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder}: is no reproducer: it has no readable {STATE}") from error
    if not isinstance(found, dict) or not {"purpose", "failed", "model"} <= found.keys():
        raise UsageError(f"{folder / STATE}: a failed run does not write such a file")
    return dict(found)


def _random(specs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, spec in specs.items():
        dtype = getattr(torch, spec["dtype"])
        values = torch.randn(spec["shape"], generator=generator)
        found[name] = values.to(dtype) if dtype.is_floating_point else values.abs().to(dtype)
    return found


def _remade(folder: Path, said: Mapping[str, Any]) -> Any:
    """A model of the same configs, with random weights."""
    torch.manual_seed(0)
    modules = {name: _module(folder / name, row) for name, row in said["components"].items()}
    if not said["is_pipeline"]:
        return next(iter(modules.values()))
    import diffusers

    with no_progress_bars():
        kind: Any = getattr(diffusers, said["class"])
        return kind.from_pretrained(folder, **modules, local_files_only=True)


def _module(folder: Path, row: Mapping[str, Any]) -> nn.Module:
    library, name = row["library"], row["class"]
    if library.split(".")[0] not in TRUSTED:
        raise UsageError(
            f"the model is a {name} of {library}: pass it, `compilekit.replay(repro, model)`"
        )
    kind: Any = getattr(importlib.import_module(library), name)
    if hasattr(kind, "load_config"):
        made = kind.from_config(kind.load_config(folder))
    else:
        made = kind(kind.config_class.from_pretrained(folder))
    dtype: torch.dtype = getattr(torch, row["dtype"])
    found: nn.Module = made.to(dtype).eval()
    return found
