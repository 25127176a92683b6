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
from compilekit.base.arguments import path_of
from compilekit.base.words import Purpose
from compilekit.bundle.calls import TRUSTED
from compilekit.engine.job import Job
from compilekit.engine.run import Execution
from compilekit.errors import CompilekitError, RecipeError, UsageError
from compilekit.load.skeleton import home_of, save_config
from compilekit.recipe import Recipe
from compilekit.subject.load import no_progress_bars
from compilekit.subject.model import Model, float_dtype
from compilekit.subject.sample import picture_names

if TYPE_CHECKING:
    from compilekit.plugin.steps import PlannedStep

FOLDER = "COMPILEKIT_REPRO"
"""The environment variable: where reproducers go, `repro` if it is not set; empty for none."""
RECIPE, STATE, PIPELINE = "recipe.yaml", "state.json", "pipeline"


@contextlib.contextmanager
def reproducible(job: Job) -> Iterator[None]:
    """Leave a reproducer if the block fails."""
    description = described(job.model)
    try:
        yield
    except (UsageError, RecipeError):
        raise  # the message says it all
    except Exception as error:
        if base := os.environ.get(FOLDER, "repro"):
            note = _leave(Path(base), error, job, description)
            if hasattr(error, "add_note"):  # Python 3.11
                error.add_note(note)
        raise


def _leave(base: Path, error: Exception, job: Job, description: Mapping[str, Any]) -> str:
    """Leave a reproducer; says how to replay it, or why there is none.

    The first error must not be hidden by a second.
    """
    index = getattr(error, "step", None)
    step = next((step for step in job.plan.steps if step.index == index), None)
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
    if isinstance(error, CompilekitError):
        error.repro = folder
    return f"replay it with: compilekit replay {folder}"


def _write(
    folder: Path,
    error: Exception,
    step: PlannedStep | None,
    job: Job,
    description: Mapping[str, Any],
) -> None:
    recipe, model = job.plan.recipe, job.model
    sample = dict(recipe.sample)
    for name, source in picture_names(recipe).items():
        sample[name] = f"{name}{source.suffix}"
        shutil.copyfile(source, folder / sample[name])
    recipe = recipe.model_copy(update={"sample": sample})
    (folder / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
    for file in {Path(job.host.plugins[planned.name].origin) for planned in job.plan.steps}:
        if file.is_file():
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
    return {
        "class": type(model.subject).__name__,
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
        place = path_of(folder, "a reproducer is the path of a folder")
        try:
            state: Any = json.loads((place / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{place}: is no reproducer: it has no readable {STATE}") from error
        if not isinstance(state, dict) or not {"purpose", "failed", "model"} <= state.keys():
            raise UsageError(f"{place / STATE}: a failed run does not write such a file")
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
        if self.recipe.model is not None and self.recipe.model.inputs:
            return None
        generator = torch.Generator().manual_seed(0)
        inputs = {}
        for name, spec in self.state["model"]["inputs"].items():
            dtype = getattr(torch, spec["dtype"])
            values = torch.randn(spec["shape"], generator=generator)
            inputs[name] = (values if dtype.is_floating_point else values.abs()).to(dtype)
        return inputs

    def remade(self) -> Any:
        """A model with the same configs and random weights."""
        torch.manual_seed(0)
        folder, described = self.folder / PIPELINE, self.state["model"]
        modules = {
            name: _module(folder / name, row) for name, row in described["components"].items()
        }
        if not described["is_pipeline"]:
            return next(iter(modules.values()))
        import diffusers

        kind: Any = getattr(diffusers, described["class"])
        with no_progress_bars():
            return kind.from_pretrained(folder, **modules, local_files_only=True)

    def replay(self, job: Job) -> str:
        """Run the failing step again; raises what it raises, or says that it passes."""
        failed = self.state["failed"]
        steps = {step.index: step for step in job.plan.steps}
        step = steps[failed["index"]] if failed else None
        if self.purpose == "build":
            from compilekit.build.run import replay

            with tempfile.TemporaryDirectory() as scratch:
                replay(job, Path(scratch), step)
        elif step is None:
            Execution(job).run()
        else:
            Execution(job).run_alone(step)
        return f"{'the run' if step is None else step.key} does not fail here"


def _module(folder: Path, row: Mapping[str, Any]) -> nn.Module:
    library, name = row["library"], row["class"]
    if library.split(".")[0] not in TRUSTED:
        raise UsageError(
            f"the model is a {name} of {library}: pass it, `compilekit.replay(repro, model)`"
        )
    kind: Any = getattr(importlib.import_module(library), name)
    if hasattr(kind, "load_config"):
        module: nn.Module = kind.from_config(kind.load_config(folder))
    else:
        module = kind(kind.config_class.from_pretrained(folder))
    return module.to(getattr(torch, row["dtype"])).eval()
