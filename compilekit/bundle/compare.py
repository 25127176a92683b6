"""What differs between two bundles, by their manifests. Light: no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from compilekit.base.bytesize import size
from compilekit.base.nested import leaves
from compilekit.bundle.files import WEIGHTS, total
from compilekit.bundle.manifest import File, Manifest
from compilekit.report import Report

Row = tuple[str, str, str, str]
ABSENT = "-"
SHOWN = 60
CLOSE = 0.01
"""Relative difference below which two measured errors count as one."""


def compare(first: Manifest, second: Manifest) -> list[Row]:
    """Everything that differs: what, where, and how it is in each."""
    comparisons = (_recipe, _machine, _files, _parts, _numbers)
    return [row for comparison in comparisons for row in comparison(first, second)]


def _recipe(first: Manifest, second: Manifest) -> Iterator[Row]:
    rest = dict(first.recipe), dict(second.recipe)
    yield from _steps(*(recipe.pop("steps", []) for recipe in rest))
    yield from _rows("recipe", *map(_leaves, rest))


def _steps(first: Any, second: Any) -> Iterator[Row]:
    """Steps are matched by their names, since one more would move all that follow."""
    names = [[next(iter(step)) for step in steps] for steps in (first, second)]
    if names[0] != names[1]:
        yield "steps", "order", ", ".join(names[0]) or ABSENT, ", ".join(names[1]) or ABSENT
    bodies = [_by_name(steps) for steps in (first, second)]
    for name in sorted(bodies[0].keys() & bodies[1].keys()):
        yield from _rows("step", *(_leaves({name: body[name]}) for body in bodies))


def _by_name(steps: Any) -> dict[str, Any]:
    bodies: dict[str, Any] = {}
    for step in steps:
        for name, body in step.items():
            count = sum(key.partition("#")[0] == name for key in bodies)
            bodies[f"{name}#{count + 1}" if count else name] = body
    return bodies


def _machine(first: Manifest, second: Manifest) -> Iterator[Row]:
    yield from _rows("compilekit", {"": first.compilekit}, {"": second.compilekit})
    yield from _rows("plugin", first.plugins, second.plugins)
    yield from _rows("machine", first.fingerprint, second.fingerprint)


def _files(first: Manifest, second: Manifest) -> Iterator[Row]:
    files = [{file.path: file for file in bundle.files} for bundle in (first, second)]
    for path in sorted(files[0].keys() | files[1].keys()):
        before, after = files[0].get(path), files[1].get(path)
        same = before is not None and after is not None and before.sha256 == after.sha256
        if not same and not path.startswith("parts/"):
            kind = "weights" if path.endswith(WEIGHTS) else "file"
            yield kind, path, _file(before), _file(after)
    yield from _rows("size", *({"": size(total(bundle.files))} for bundle in (first, second)))


def _parts(first: Manifest, second: Manifest) -> Iterator[Row]:
    """Entry points and what they were compiled for; compiled files have no stable digests."""
    covered = [
        {
            entry.name: " | ".join(sorted(str(bundle.part(p).signature) for p in entry.parts))
            for entry in bundle.entries
        }
        for bundle in (first, second)
    ]
    yield from _rows("covers", *covered)


def _numbers(first: Manifest, second: Manifest) -> Iterator[Row]:
    errors = [
        {row.entry: row.error for row in Report.model_validate(bundle.report).final}
        for bundle in (first, second)
    ]
    for name in sorted(errors[0].keys() | errors[1].keys()):
        before, after = errors[0].get(name), errors[1].get(name)
        if not _is_close(before, after):
            yield "error", name, _error(before), _error(after)


def _file(file: File | None) -> str:
    return ABSENT if file is None else f"{size(file.size)} {file.sha256[:12]}"


def _is_close(before: float | None, after: float | None) -> bool:
    """Whether two errors count as one; NaN is like NaN alone."""
    if before is None or after is None:
        return False
    return math.isclose(before, after, rel_tol=CLOSE) or (math.isnan(before) and math.isnan(after))


def _error(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.2e}"


def _rows(what: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Row]:
    for key in sorted(first.keys() | second.keys()):
        if first.get(key) != second.get(key):
            yield what, key, _text(first.get(key)), _text(second.get(key))


def _leaves(value: Any) -> dict[str, Any]:
    return leaves(value, lambda inner: isinstance(inner, dict) and bool(inner))


def _text(value: Any) -> str:
    if value is None:
        return ABSENT
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
