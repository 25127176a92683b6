"""Whether the entries of a manifest fit together. Light: no torch."""

from __future__ import annotations

from collections.abc import Iterator

from compilekit.bundle.contents import NAME, Component, Contents, Entry, Part
from compilekit.plan.digest import digest_of


def faults(manifest: Contents) -> Iterator[str]:
    """References of one entry to another that does not exist, as sentences."""
    yield from _recipe_faults(manifest)
    yield from _file_faults(manifest)
    yield from _part_faults(manifest)
    for component in manifest.components:
        yield from _tensor_faults(component)
    yield from _entry_faults(manifest)


def _recipe_faults(manifest: Contents) -> Iterator[str]:
    steps = manifest.recipe.get("steps")
    rows = steps if isinstance(steps, list) else []
    names = [next(iter(row), "") if isinstance(row, dict) else "" for row in rows]
    if names != [step.name for step in manifest.steps]:
        yield "recipe: its steps differ from those under `steps`"
    elif digest_of(manifest.recipe) != manifest.digest:
        yield "recipe: it does not match `digest`"


def _file_faults(manifest: Contents) -> Iterator[str]:
    files = [file.path for file in manifest.files]
    # The same name in another case is the same file on some systems.
    yield from _twice("files", [path.lower() for path in files])
    if NAME in {path.lower() for path in files}:
        yield f"files: {NAME} cannot list itself"
    for component in manifest.components:
        if component.constants is not None and component.constants not in files:
            yield f"components: {component.name}: {component.constants} is not among `files`"
    for part in manifest.parts:
        if not any(path.startswith(f"{part.folder}/") for path in files):
            yield f"parts: {part.folder}: no file lies there"


def _part_faults(manifest: Contents) -> Iterator[str]:
    yield from _twice("parts", [part.folder for part in manifest.parts])
    yield from _twice("components", [component.name for component in manifest.components])
    yield from _twice("entries", [entry.name for entry in manifest.entries])
    if manifest.kind == "module" and len(manifest.components) != 1:
        yield f"components: a module is one component, not {len(manifest.components)}"
    for part in manifest.parts:
        if part.step >= len(manifest.steps):
            yield f"parts: {part.folder}: there is no step {part.step}"
    whole = manifest.whole
    if whole is not None and whole.step >= len(manifest.steps):
        yield f"whole: there is no step {whole.step}"
    if whole is not None and (manifest.parts or manifest.kind != "pipeline"):
        yield "whole: a pipeline that is compiled at once has no parts"
    for step in manifest.steps:
        if step.name not in manifest.plugins:
            yield f"steps: {step.name}: its plugin is not among `plugins`"


def _entry_faults(manifest: Contents) -> Iterator[str]:
    parts = {part.folder: part for part in manifest.parts}
    components = {component.name: component for component in manifest.components}
    for entry in manifest.entries:
        component = components.get(entry.component)
        if component is None:
            yield f"entries: {entry.name}: there is no component {entry.component}"
            continue
        for folder in entry.parts:
            if folder in parts:
                yield from _constant_faults(entry, parts[folder], component)
            else:
                yield f"entries: {entry.name}: there is no part {folder}"


def _tensor_faults(component: Component) -> Iterator[str]:
    names = {tensor.name: tensor for tensor in component.tensors}
    yield from _twice(f"components: {component.name}", [t.name for t in component.tensors])
    for tensor in component.tensors:
        where = f"components: {component.name}: {tensor.name}"
        if sorted(tensor.order) != list(range(len(tensor.shape))):
            yield f"{where}: its order does not name each dimension once"
        if tensor.key is not None and component.constants is None:
            yield f"{where}: there is no file to find it in"
        for inner in tensor.inner:
            if inner not in names or names[inner].kind != "inner":
                yield f"{where}: there is no inner tensor {inner}"


def _constant_faults(entry: Entry, part: Part, component: Component) -> Iterator[str]:
    names = {tensor.name for tensor in component.tensors if tensor.key is not None}
    for name, source in part.constants.items():
        kind = source.partition(":")[0]
        if kind not in ("tensor", "extra") or entry.tensor(source) not in names:
            yield f"parts: {part.folder}: constants.{name}: {entry.name} has no {source!r}"


def _twice(where: str, names: list[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield f"{where}: {name} is listed twice"
        seen.add(name)
