"""The keys of the build cache: fingerprints of all inputs of a part, or of a whole bundle.

Two builds with one key write the same. If an input cannot be fingerprinted, there is no key; then
the part is built and not cached.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compilekit.base import environment
from compilekit.base.diffusers_internals import ORIGINS, UNORDERED, active_attention_backend
from compilekit.base.words import ALL_COMPONENTS
from compilekit.build.alike import Unlike, digest_of, plain, structure
from compilekit.build.code import UnknownCodeError, code_of, package_digest, source_digest
from compilekit.build.signatures import Group
from compilekit.bundle.calls import order_of
from compilekit.bundle.constants import bytes_of, held_by
from compilekit.bundle.files import listed, sha256
from compilekit.cache.store import Cache
from compilekit.measure.state import snapshot
from compilekit.plan.order import overlap
from compilekit.plan.plan import Plan
from compilekit.plan.whole import fingerprint, ingredients
from compilekit.plugin.host import Host
from compilekit.plugin.steps import PlannedStep
from compilekit.subject.model import Model

FORMAT = 2
SHORT = 64
NAMED = 5
"""How deep the inputs of a key are named one by one."""
SEPARATOR = " > "

VARIABLES = (
    "TORCH", "PYTORCH", "ATEN", "CUDA", "CUBLAS", "CUDNN", "DIFFUSERS", "OMP_", "MKL_", "KMP_",
    "ONEDNN", "DNNL", "CC", "CXX", "CPATH", "CPLUS", "LD_", "LIBRARY_PATH",
)  # fmt: skip
"""Beginnings of the environment variables that torch, diffusers and C++ compilers read.

A step's description adds those of its own compiler.
"""

PLACES = ("CACHE", "_DIR", "TMP", "TEMP", "LOG", "TRACE")
"""Words in the names of variables that hold paths, which do not change the result."""

THREADS = ("torch.num_threads", "torch.grad_enabled")


class NoKeyError(Exception):
    """An input cannot be fingerprinted."""


@dataclass(frozen=True)
class Key:
    """The digest of all inputs of a result, and each input by name, to tell two keys apart."""

    digest: str
    inputs: dict[str, str]


def key_for(cache: Cache | None, title: str, make: Callable[[], Key]) -> Key | None:
    """The key that `make` returns; None if there is no cache or no key, which is noted."""
    if cache is None:
        return None
    try:
        return make()
    except NoKeyError as error:
        cache.note(f"{title} is not cached: {error}")
        return None


def part_key(plan: Plan, step: PlannedStep, group: Group, host: Host) -> Key:
    """The key of what a step exports for one entry point and one signature."""
    call = group.example
    entry = call.entry
    prefix = plan.steps[: plan.steps.index(step)]
    reached = [earlier for earlier in prefix if _reaches(earlier, entry.name)]
    return _key(
        {
            "steps before": [_described(earlier, components=True) for earlier in reached],
            "step": _described(step, components=False),
            "method": entry.method,
            "signature": group.signature.model_dump(mode="json"),
            "arguments": {
                path: [str(tensor.dtype), list(tensor.shape), list(order_of(tensor))]
                for path, tensor in call.tensors.items()
            },
            **_contents({"": entry.owner}),
            "plugins": _plugins(host, [*reached, step]),
            **_surroundings(plan.device, [*reached, step]),
        }
    )


def bundle_key(plan: Plan, model: Model, host: Host) -> Key:
    """The key of a whole bundle: the recipe, the model, the machine and its software.

    A cached part is compared with the model's Python before it is used; a whole bundle is not. So
    there is no key if the user's own code runs, since its inputs are not known.
    """
    return _key(
        {
            "plan": plan.to_dict(),
            "pictures": _pictures(plan),
            "files that steps read": _files(plan, host),
            "class": f"{type(model.subject).__module__}.{type(model.subject).__qualname__}",
            **_contents(model.modules, own_code=False),
            "rest of the pipeline": _rest(model),
            "inputs": _inputs(model),
            "plugins": _plugins(host, plan.steps),
            **_surroundings(plan.device, plan.steps),
            "exporter": _ingredients(plan, host),
        }
    )


def _ingredients(plan: Plan, host: Host) -> list[Any]:
    """The inputs that only the step knows which exports the whole pipeline."""
    if plan.whole is None:
        return []
    inputs = ingredients(host, plan.whole)
    if inputs is None:
        raise NoKeyError(f"{plan.whole.key} cannot fingerprint its inputs")
    return [inputs, fingerprint(host, plan.whole.name)]


def _key(inputs: Mapping[str, Any]) -> Key:
    for name in _unlike(inputs):
        raise NoKeyError(f"the model holds something that cannot be compared ({name})")
    return Key(digest_of([FORMAT, inputs]), dict(_rows(inputs)))


def _unlike(value: Any) -> Iterator[str]:
    if isinstance(value, Unlike):
        yield value.partition(": ")[2]
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _unlike(item)


def _rows(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Each input by name: its text if that is short, else its digest."""
    if isinstance(value, Mapping) and value and depth < NAMED:
        for key, item in value.items():
            yield from _rows(item, f"{name}{SEPARATOR}{key}" if name else str(key), depth + 1)
        return
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    yield name, text if len(text) <= SHORT else digest_of(value)[:SHORT]


def _reaches(step: PlannedStep, entry: str) -> bool:
    return ALL_COMPONENTS in step.components or any(overlap(c, entry) for c in step.components)


def _described(step: PlannedStep, *, components: bool) -> dict[str, Any]:
    """A step as the recipe describes it, without its budget, which changes no result."""
    row = {"name": step.name, "options": step.options.model_dump(mode="json")}
    return {**row, "components": list(step.components)} if components else row


def _contents(modules: Mapping[str, nn.Module], *, own_code: bool = True) -> dict[str, Any]:
    """Structure, code and weights of modules."""
    try:
        code = code_of(layer for module in modules.values() for layer in module.modules())
    except UnknownCodeError as error:
        raise NoKeyError(str(error)) from error
    if code.is_own and not own_code:
        raise NoKeyError("code of your own runs in it")
    tensors = [(name, held) for name, module in modules.items() for held in held_by(module)]
    stored = [held.tensor for _, held in tensors if held.row.key is not None]
    with ThreadPoolExecutor() as pool:
        digests = iter(list(pool.map(_values, stored)))
    weights = [
        (name, held.row.model_dump(mode="json"), held.row.key and next(digests))
        for name, held in tensors
    ]
    structures = {name: structure(module) for name, module in modules.items()}
    return {
        "code": code.versions,
        "modules": structures,
        "order of modules": {name: list(rows) for name, rows in structures.items()},
        "weights": {
            f"{name} {row['name']}".strip(): [row, digest] for name, row, digest in weights
        },
    }


def _values(tensor: torch.Tensor) -> str:
    return hashlib.sha256(bytes_of(tensor)).hexdigest()


def _rest(model: Model) -> dict[str, str]:
    if not model.is_pipeline:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        save_rest(model.subject, Path(folder))
        return {row.path: _digest(Path(folder) / row.path) for row in listed(Path(folder))}


def _digest(file: Path) -> str:
    """The digest of a file; of a JSON file, that of what it says."""
    if file.suffix != ".json":
        return sha256(file)
    return digest_of(json.loads(file.read_bytes(), object_hook=_same_everywhere))


def _same_everywhere(row: dict[str, Any]) -> dict[str, Any]:
    return {k: sorted(v) if k in UNORDERED else v for k, v in row.items() if k not in ORIGINS}


def save_rest(pipeline: Any, folder: Path) -> None:
    """Write what of a pipeline is no module: its index, tokenizers, the scheduler, settings."""
    pipeline.save_config(folder)
    for name, part in pipeline.components.items():
        if not isinstance(part, nn.Module) and hasattr(part, "save_pretrained"):
            part.save_pretrained(folder / name)


def _inputs(model: Model) -> list[Any]:
    return [
        [name, [str(v.dtype), list(v.shape), _values(v)] if isinstance(v, torch.Tensor) else v]
        for name, v in model.inputs.items()
    ]


def _pictures(plan: Plan) -> dict[str, str]:
    from compilekit.subject.sample import picture_names

    return {name: sha256(path) for name, path in picture_names(plan.recipe).items()}


def _files(plan: Plan, host: Host) -> list[list[str]]:
    """The files that steps read. Files on the hub have no fingerprint: they may change."""
    rows = []
    for step in plan.steps:
        for place in map(Path, host.reads(step)):
            if not place.exists():
                raise NoKeyError(f"{step.key} reads {place}, which is no file here")
            files = sorted(filter(Path.is_file, place.rglob("*"))) if place.is_dir() else [place]
            rows += [[step.key, f.relative_to(place).as_posix(), sha256(f)] for f in files]
    return rows


def _plugins(host: Host, steps: Iterable[PlannedStep]) -> dict[str, dict[str, str]]:
    """The plugins of some steps: their versions and the digests of their code."""
    rows = {}
    for step in steps:
        plugin = host.plugins[step.name]
        try:
            code = package_digest(plugin.module)
        except UnknownCodeError as error:
            raise NoKeyError(f"the code of plugin {plugin} is not known: {error}") from error
        rows[step.name] = {"version": plugin.version, "code": code}
    return rows


def _surroundings(device: str, steps: Sequence[PlannedStep]) -> dict[str, Any]:
    """This machine, its software and its settings."""
    needed = {name for step in steps for name in step.description.packages}
    settings = {
        name: plain(value)
        for name, value in snapshot().values.items()
        if not name.startswith("os.environ.") and name not in THREADS
    }
    return {
        "fingerprint": environment.fingerprint(device),
        "versions": environment.versions(),
        "needed": {name: environment.installed_version(name) or "" for name in sorted(needed)},
        "compilekit": source_digest(Path(__file__).parents[1]),
        "variables": variables(steps),
        "compiler": _compiler(),
        "attention": active_attention_backend(),
        "settings": {n: value for n, value in settings.items() if _is_portable(value)},
    }


def _is_portable(value: Any) -> bool:
    """Whether it is the same in every process: no object of this one, and no path in it."""
    return next(_unlike(value), None) is None and os.sep not in json.dumps(value)


def variables(steps: Iterable[PlannedStep]) -> dict[str, str]:
    """The environment variables that matter to what these steps compile."""
    read = (*VARIABLES, *(name for step in steps for name in step.description.variables))
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(read) and not any(place in name for place in PLACES)
    }


def _compiler() -> str:
    """The version of the C++ compiler: another version makes other code."""
    path = shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")
    if path is None:
        return ""
    try:
        process = subprocess.run(  # noqa: S603 - the compiler that will run anyway
            [path, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return path
    return process.stdout.partition("\n")[0]
