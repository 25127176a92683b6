"""From a recipe's `model:` to a pipeline in memory, with everything cheap checked first."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compilekit.base.diffusers_internals import dtype_keyword, is_hooked
from compilekit.base.progress import Progress
from compilekit.base.texts import summary
from compilekit.base.words import ALL_COMPONENTS
from compilekit.bundle.loaded import refuse_loaded
from compilekit.bundle.manifest import NAME as MANIFEST
from compilekit.errors import CompilekitError, ModelError, Problem, RecipeError, UsageError

if TYPE_CHECKING:
    import torch

    from compilekit.base.words import Device
    from compilekit.errors import Location
    from compilekit.plan.plan import Plan
    from compilekit.plugin.host import Host
    from compilekit.recipe import ModelSource
    from compilekit.subject.model import Model

INDEX, CONFIG = "model_index.json", "config.json"
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def check_components(plan: Plan, known: Iterable[str], owner: str) -> None:
    """Look whether a pipeline has the components that the steps name."""
    from compilekit.subject.model import no_component

    names = set(known)
    problems = [
        Problem(_where(plan, index, at), step.key, no_component(name.split(".")[0], owner, names))
        for index, step in enumerate(plan.steps)
        for at, name in enumerate(step.components)
        if name != ALL_COMPONENTS and name.split(".")[0] not in names
    ]
    if problems:
        raise RecipeError(problems)


def check_entry_points(plan: Plan, model: Model) -> None:
    """Look whether the model has every component and entry point that the steps name."""
    check_components(plan, model.modules, type(model.subject).__name__)
    problems = []
    for index, step in enumerate(plan.steps):
        for at, name in enumerate(step.components):
            if name == ALL_COMPONENTS:
                continue
            try:
                model.entry_point(name)
            except ModelError as error:
                problems.append(Problem(_where(plan, index, at), step.key, str(error)))
    if problems:
        raise RecipeError(problems)


def _where(plan: Plan, index: int, at: int) -> Location:
    step = plan.steps[index]
    return plan.recipe.location("steps", step.index, step.name, "components", at)


def subject_of(plan: Plan, source: Any, progress: Progress) -> Any:
    """The user's pipeline or module: passed as it is, made by a function, or loaded."""
    if source is None or isinstance(source, str | Path):
        with progress.stage("loading the model"):
            return load_subject(plan, None if source is None else str(source))
    subject = source() if is_function(source) else source
    refuse_loaded(subject)
    return subject


def is_function(source: Any) -> bool:
    """Whether a source is a function that makes the model. Models can be called too."""
    is_model = hasattr(source, "components") or hasattr(source, "state_dict")
    return callable(source) and (isinstance(source, type) or not is_model)


def ready_model(
    plan: Plan, subject: Any, inputs: Mapping[str, torch.Tensor] | None, host: Host
) -> Model:
    """The handle on a pipeline or module: it has what the plan names, and is on its device."""
    from compilekit.subject.model import Model
    from compilekit.subject.sample import module_inputs

    model = Model(subject, inputs or module_inputs(plan.recipe))
    if not model.is_pipeline:
        _refuse_names(subject, model.inputs)
    check_entry_points(plan, model)
    to_device(model, plan.model_device, host)
    return model


def _refuse_names(module: Any, inputs: Iterable[str]) -> None:
    """Refuse inputs that are not the arguments of a module's forward."""
    forward = inspect.signature(module.forward)
    try:
        forward.bind_partial(**dict.fromkeys(inputs))
    except TypeError as error:
        takes = ", ".join(map(str, forward.parameters.values())) or "nothing"
        kind, named = type(module).__name__, ", ".join(inputs)
        raise ModelError(f"{kind} takes {takes}, and the inputs are {named}: {error}") from error


def to_device(model: Model, device: Device, host: Host) -> None:
    """Move a model to its recipe's target, unless accelerate moves it by itself."""
    import torch

    model.waits = host.waits(device)
    modules = model.modules.values()
    hooked = any(is_hooked(module) for module in modules)
    placed = {t.device.type for m in modules for t in (*m.parameters(), *m.buffers())}
    if "meta" in placed and not hooked:
        raise ModelError("the model's weights are not in memory: they are on the meta device")
    model.inputs = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in model.inputs.items()
    }
    if hooked or placed == {device}:
        return
    move = host.mover(device) if model.is_pipeline else None
    with torch.no_grad():
        if move is None:
            model.subject.to(device)
        else:
            move(model.subject)


def load_subject(plan: Plan, source: str | None = None) -> Any:
    """Load the pipeline or module that a recipe names; `source` stands in for the recipe's."""
    from compilekit.recipe import ModelSource

    spec = plan.recipe.model or ModelSource()
    place = source or spec.source
    if not place:
        raise UsageError("there is no model: pass one, or name its `source:` under `model:`")
    index = None if spec.inputs else _index(place, spec)
    if index is not None:
        rows = {n: row for n, row in index.items() if isinstance(row, list) and n[:1] != "_"}
        names = {name for name, row in rows.items() if row and row[0] is not None}
        check_components(plan, names | {*spec.components}, str(index.get("_class_name", place)))
        _check_folders(place, names - {*spec.components})
    try:
        with no_progress_bars():
            return _loaded(place, spec, is_pipeline=index is not None)
    except CompilekitError:
        raise
    except Exception as error:
        raise ModelError(f"{place} cannot be loaded: {summary(error)}") from error


def _check_folders(place: str, names: Iterable[str]) -> None:
    """Look whether a pipeline's folder holds the components that its index names."""
    folder = Path(place)
    missing = [name for name in sorted(names) if not (folder / name).is_dir()]
    if missing and folder.is_dir():
        raise ModelError(f"{place}: its {INDEX} names {missing[0]}, and it has no such folder")


def _index(place: str, spec: ModelSource) -> dict[str, Any] | None:
    """The pipeline's `model_index.json`, without its weights; None for a plain module."""
    if Path(place).is_dir():
        path = Path(place) / INDEX
        if not path.is_file():
            if spec.pipeline:
                return None
            if (Path(place) / MANIFEST).is_file():
                raise ModelError(
                    f"{place} is a bundle, which is compiled already: pass the model that it was "
                    "built from"
                )
            raise ModelError(f"{place} is no pipeline: it holds no {INDEX}")
    elif Path(place).exists():
        raise ModelError(f"{place}: a file, and a model is a folder or a name of the hub")
    elif HUB_ID.fullmatch(place):
        path = _from_hub(place, spec)
    else:
        raise ModelError(f"{place}: no such folder, and no name that the hub could have")
    return _read_index(path)


def _read_index(path: Path) -> dict[str, Any]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    if not isinstance(index, dict):
        raise ModelError(f"{path} holds no mapping")
    for name, row in index.items():
        if row == []:
            raise ModelError(f"{path}: {name} is an empty list: write its library and its class")
    return index


def _from_hub(place: str, spec: ModelSource) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(hf_hub_download(place, INDEX, revision=spec.revision))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"{place} is neither a folder here nor a model that the hub gives: {reason}"
        ) from error


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Without the bars of diffusers and transformers: compilekit shows what is going on."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries: list[Any] = [diffusers_logging, transformers_logging]
    shown = [library for library in libraries if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def _loaded(place: str, spec: ModelSource, *, is_pipeline: bool) -> Any:
    import torch

    keywords: dict[str, Any] = {"revision": spec.revision}
    if spec.variant:
        keywords["variant"] = spec.variant
    dtype = getattr(torch, spec.dtype) if spec.dtype else None
    if not is_pipeline:
        module = _class(spec.pipeline or "AutoModel").from_pretrained(place, **keywords)
        return (module.to(dtype) if dtype else module).eval()
    import diffusers

    cast = {dtype_keyword(): dtype} if dtype else {}
    for name, source in spec.components.items():
        if Path(source).is_dir() and not (Path(source) / CONFIG).is_file():
            raise ModelError(f"model.components.{name}: {source} holds no {CONFIG}")
        # Of the class that its own config names.
        keywords[name] = diffusers.AutoModel.from_pretrained(source, **cast)
    kind = _class(spec.pipeline) if spec.pipeline else diffusers.DiffusionPipeline
    return kind.from_pretrained(place, **keywords, **cast)


def _class(name: str) -> Any:
    for library in ("diffusers", "transformers"):
        kind = getattr(importlib.import_module(library), name, None)
        if isinstance(kind, type):
            return kind
    raise ModelError(f'model.pipeline: neither diffusers nor transformers has a class "{name}"')
