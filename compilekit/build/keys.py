"""The keys of the build cache: fingerprints of all inputs of a part, or of a whole bundle.

Two builds with one key write the same. If an input cannot be fingerprinted, there is no key; then
the part is built and not cached.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compilekit.base import environment
from compilekit.base.diffusers_internals import active_attention_backend
from compilekit.base.words import ALL_COMPONENTS
from compilekit.build.alike import Unlike, digest_of, structure
from compilekit.build.code import UnknownCodeError, code_of, source_digest
from compilekit.build.signatures import Wanted
from compilekit.bundle.calls import leaves, order_of
from compilekit.bundle.constants import held_by
from compilekit.bundle.files import sha256
from compilekit.measure.state import snapshot
from compilekit.plan.order import overlap
from compilekit.plan.plan import Plan
from compilekit.plan.whole import fingerprint, ingredients
from compilekit.plugin.host import Host
from compilekit.plugin.steps import PlannedStep
from compilekit.subject.model import Model

FORMAT = 1

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


def part_key(plan: Plan, step: PlannedStep, group: Wanted, host: Host) -> str:
    """The key of what a step exports for one entry point and one signature."""
    call = group.example
    entry = call.entry
    prefix = plan.steps[: plan.steps.index(step)]
    reached = [each for each in prefix if _reaches(each, entry.name)]
    inputs = [
        [path, str(leaf.dtype), list(leaf.shape), list(order_of(leaf))]
        for path, leaf in leaves(call.arguments).items()
        if isinstance(leaf, torch.Tensor)
    ]
    return _key(
        "part",
        [_said(each, components=True) for each in reached],
        _said(step, components=False),
        entry.method,
        group.signature.model_dump(mode="json"),
        inputs,
        _contents({"": entry.owner}),
        _plugins(host, [*reached, step]),
        _surroundings(plan.device, [*reached, step]),
    )


def bundle_key(plan: Plan, model: Model, host: Host) -> str:
    """The key of a whole bundle: the recipe, the model, the machine and its software.

    A cached part is compared with the model's Python before it is used; a whole bundle is not. So
    there is no key if the user's own code runs, since its inputs are not known.
    """
    return _key(
        "bundle",
        plan.to_dict(),
        _pictures(plan),
        _files(plan, host),
        type(model.subject).__module__,
        type(model.subject).__qualname__,
        _contents(model.modules, own_code=False),
        _rest(model),
        _inputs(model),
        _plugins(host, plan.steps),
        _surroundings(plan.device, plan.steps),
        *_ingredients(plan, host),
    )


def _ingredients(plan: Plan, host: Host) -> Iterator[Any]:
    """The inputs that only the step knows which exports the whole pipeline."""
    if plan.whole is None:
        return
    found = ingredients(host, plan.whole)
    if found is None:
        raise NoKeyError(f"{plan.whole.key} cannot fingerprint its inputs")
    yield [found, fingerprint(host, plan.whole.name)]


def _key(*parts: Any) -> str:
    found = next(_unlike(parts), None)
    if found is not None:
        raise NoKeyError(f"the model holds something that cannot be compared ({found})")
    return digest_of([FORMAT, *parts])


def _unlike(value: Any) -> Iterator[str]:
    if isinstance(value, Unlike):
        yield value.partition(": ")[2]
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _unlike(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _unlike(each)


def _reaches(step: PlannedStep, entry: str) -> bool:
    return ALL_COMPONENTS in step.components or any(overlap(c, entry) for c in step.components)


def _said(step: PlannedStep, *, components: bool) -> dict[str, Any]:
    """A step as the recipe describes it, without its budget, which changes no result."""
    said = {"name": step.name, "options": step.options.model_dump(mode="json")}
    return {**said, "components": list(step.components)} if components else said


def _contents(modules: Mapping[str, nn.Module], *, own_code: bool = True) -> list[Any]:
    """Structure, code and weights of modules."""
    try:
        code = code_of(each for module in modules.values() for each in module.modules())
    except UnknownCodeError as error:
        raise NoKeyError(str(error)) from error
    if code.is_own and not own_code:
        raise NoKeyError("code of your own runs in it")
    held = [(name, each) for name, module in modules.items() for each in held_by(module)]
    plain = [each.tensor for _, each in held if each.row.key is not None]
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(_values, plain))
    rows = [[name, each.row.model_dump(mode="json")] for name, each in held]
    looks = {name: structure(module) for name, module in modules.items()}
    return [code.found, looks, rows, digests]


def _values(tensor: torch.Tensor) -> str:
    flat = tensor.detach().permute(order_of(tensor)).contiguous().cpu().reshape(-1)
    found: Any = flat.view(torch.uint8).numpy() if flat.numel() else b""
    return hashlib.sha256(found).hexdigest()


def _rest(model: Model) -> dict[str, Any]:
    """The rest of a pipeline: tokenizers, the scheduler, settings."""
    if not model.is_pipeline:
        return {}
    subject = model.subject
    with tempfile.TemporaryDirectory() as folder:
        for name, part in subject.components.items():
            if not isinstance(part, nn.Module) and hasattr(part, "save_pretrained"):
                part.save_pretrained(Path(folder) / name)
        subject.save_config(folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        }


def _inputs(model: Model) -> list[Any]:
    inputs = model.inputs or {}
    return [
        [name, [str(v.dtype), list(v.shape), _values(v)] if isinstance(v, torch.Tensor) else v]
        for name, v in inputs.items()
    ]


def _pictures(plan: Plan) -> dict[str, str]:
    from compilekit.subject.sample import picture_names

    return {name: sha256(path) for name, path in picture_names(plan.recipe).items()}


def _files(plan: Plan, host: Host) -> list[list[str]]:
    """The files that steps read. Files on the hub have no fingerprint: they may change."""
    found = []
    for step in plan.steps:
        for place in map(Path, host.reads(step)):
            if not place.exists():
                raise NoKeyError(f"{step.key} reads {place}, which is no file here")
            files = (
                sorted(f for f in place.rglob("*") if f.is_file()) if place.is_dir() else [place]
            )
            for file in files:
                name = file.relative_to(place).as_posix()
                found.append([step.key, name, sha256(file)])
    return found


def _plugins(host: Host, steps: Iterable[PlannedStep]) -> dict[str, list[str]]:
    """The plugins of some steps: their versions and the digests of their code."""
    found = {}
    for step in steps:
        plugin = host.plugins[step.name]
        file = Path(getattr(plugin.module, "__file__", None) or "")
        try:
            code = source_digest(file.parent if file.name == "__init__.py" else file)
        except UnknownCodeError as error:
            raise NoKeyError(f"the code of plugin {plugin} is not known: {error}") from error
        found[step.name] = [plugin.version, code]
    return found


def _surroundings(device: str, steps: Sequence[PlannedStep]) -> dict[str, Any]:
    """This machine, its software and its settings."""
    package = Path(__file__).parents[1]
    needed = {name for step in steps for name in step.description.packages}
    state = snapshot().values
    settings = {
        name: repr(value)
        for name, value in state.items()
        if not name.startswith("os.environ.") and name not in THREADS and _is_plain(value)
    }
    return {
        "fingerprint": environment.fingerprint(device),
        "versions": environment.versions(),
        "needed": {name: environment.installed_version(name) or "" for name in sorted(needed)},
        "compilekit": source_digest(package),
        "variables": variables(steps),
        "compiler": _compiler(),
        "attention": active_attention_backend(),
        "settings": settings,
    }


def _is_plain(value: object) -> bool:
    """Whether its text is the same in every process: no address and no path in it."""
    text = repr(value)
    return " at 0x" not in text and os.sep not in text


def variables(steps: Iterable[PlannedStep]) -> dict[str, str]:
    """The environment variables that matter to what these steps compile."""
    read = (*VARIABLES, *(each for step in steps for each in step.description.variables))
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
        done = subprocess.run(  # noqa: S603 - the compiler that will run anyway
            [path, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return path
    return done.stdout.partition("\n")[0]
