"""Parts, taken from the build cache or added to it."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from compilekit.build.keys import key_for, part_key
from compilekit.build.signatures import Group
from compilekit.bundle import constants, manifest
from compilekit.cache.entry import Entry
from compilekit.cache.store import Cache
from compilekit.errors import CompilekitError
from compilekit.plan.plan import Plan
from compilekit.plugin.host import Host
from compilekit.plugin.steps import Part, PlannedStep

PART, EXTRA = "part", "extra.safetensors"
SCRATCH = "cached"


@dataclass(frozen=True)
class Exported:
    """An exported part: its row of the manifest, and the tensors that it reads.

    cached: whether it comes from the build cache.
    """

    row: manifest.Part
    part: Part
    extra: dict[str, torch.Tensor]
    device: torch.device
    cached: bool = False


@dataclass(frozen=True)
class Place:
    """Where a part lies in the bundle that is being built, and the step that makes it."""

    folder: Path
    where: str
    position: int
    device: torch.device

    @property
    def path(self) -> Path:
        """The part's own folder."""
        return self.folder / self.where

    def extra_name(self, number: int) -> str:
        """The name of a tensor that belongs to this part alone."""
        return f"extra.{self.path.name}.{number}"


@dataclass(frozen=True)
class Reuse:
    """Makes each part once: looks into the cache first, and adds new parts to it."""

    plan: Plan
    host: Host
    cache: Cache | None

    def part(
        self,
        step: PlannedStep,
        group: Group,
        place: Place,
        make: Callable[[], Exported],
        verify: Callable[[Exported], None],
    ) -> Exported:
        """The part, from the cache or new. `make` verifies the part that it returns."""
        cache = self.cache
        title = f"{step.name}: {group.example.entry.name}"
        key = key_for(cache, title, lambda: part_key(self.plan, step, group, self.host))
        if cache is None or key is None:
            return make()
        with cache.working_on("part", key.digest, title):
            exported = _fetched(cache, key.digest, place, verify)
            if exported is not None:
                return exported
            start = time.perf_counter()
            exported = make()
            seconds = time.perf_counter() - start
            with _to_keep(exported, place) as (folders, data):
                cache.store(
                    "part",
                    key.digest,
                    folders,
                    title=title,
                    seconds=seconds,
                    data=data,
                    inputs=key.inputs,
                )
        return exported


def _fetched(
    cache: Cache, key: str, place: Place, verify: Callable[[Exported], None]
) -> Exported | None:
    scratch = place.folder / SCRATCH
    entry = cache.fetch("part", key, scratch)
    if entry is None:
        return None
    try:
        exported = _restored(entry, scratch, place)
        verify(exported)
    except (CompilekitError, ValidationError, LookupError, TypeError, OSError) as error:
        # The digests are right, so an input changed that the key does not cover.
        cache.note(f"a part from the cache is not used: {error}")
        cache.drop("part", key)
        shutil.rmtree(place.path, ignore_errors=True)
        return None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return exported


@contextlib.contextmanager
def _to_keep(exported: Exported, place: Place) -> Iterator[tuple[dict[str, Path], dict[str, Any]]]:
    """The folders and plain values that the cache stores for a part."""
    rows = [constants.row_of(k, "extra", t, key=k) for k, t in exported.extra.items()]
    data = {
        "row": exported.row.model_dump(mode="json"),
        "packed": sorted(exported.part.packed),
        "extra": [row.model_dump(mode="json") for row in rows],
    }
    with tempfile.TemporaryDirectory(dir=place.folder) as scratch:
        folders = {PART: place.path}
        if exported.extra:
            constants.save(exported.extra, Path(scratch) / EXTRA)
            folders[""] = Path(scratch)
        yield folders, data


def _restored(entry: Entry, scratch: Path, place: Place) -> Exported:
    """A cached part in its place; its own tensors get the names that this bundle uses."""
    row = manifest.Part.model_validate_json(json.dumps(entry.data["row"]))
    rows = [manifest.Tensor.model_validate_json(json.dumps(row)) for row in _list(entry, "extra")]
    stored = constants.read(scratch / EXTRA, torch.device("cpu")) if rows else {}
    names = {tensor.name: place.extra_name(number) for number, tensor in enumerate(rows)}
    extra = {
        names[tensor.name]: constants.shaped(tensor, stored, place.where).to(
            place.device, copy=True
        )
        for tensor in rows
    }
    sources = {
        name: f"extra:{names[source.removeprefix('extra:')]}"
        if source.startswith("extra:")
        else source
        for name, source in row.constants.items()
    }
    place.path.parent.mkdir(parents=True, exist_ok=True)
    (scratch / PART).rename(place.path)
    changes = {"folder": place.where, "step": place.position, "constants": sources}
    packed = frozenset(str(name) for name in _list(entry, "packed"))
    part = Part(packed=packed, details=row.details)
    return Exported(row.model_copy(update=changes), part, extra, place.device, cached=True)


def _list(entry: Entry, name: str) -> list[Any]:
    items = entry.data[name]
    if not isinstance(items, list):
        raise TypeError(f"{name} is no list")
    return items
