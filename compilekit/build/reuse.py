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

from compilekit.build.keys import NoKeyError, part_key
from compilekit.build.signatures import Wanted
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
class Made:
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

    def own(self, number: int) -> str:
        """The name of a tensor that belongs to this part alone."""
        return f"extra.{self.path.name}.{number}"


class Reuse:
    """Makes each part once: looks into the cache first, and adds new parts to it."""

    def __init__(self, plan: Plan, host: Host, cache: Cache | None) -> None:
        self._plan = plan
        self._host = host
        self._cache = cache

    def made(
        self,
        step: PlannedStep,
        group: Wanted,
        place: Place,
        make: Callable[[], Made],
        verify: Callable[[Made], None],
    ) -> Made:
        """The part, verified: from the cache, or new."""
        entry = group.example.entry
        title = f"{step.name}: {entry.name}"
        cache = self._cache
        key = self._key(step, group, title)
        if cache is None or key is None:
            return _verified(make(), verify)
        with cache.working_on("part", key, title):
            found = _found(cache, key, place, verify)
            if found is not None:
                return found
            start = time.perf_counter()
            made = _verified(make(), verify)
            seconds = time.perf_counter() - start
            with _to_keep(made, place) as (folders, data):
                cache.store("part", key, folders, title=title, seconds=seconds, data=data)
        return made

    def _key(self, step: PlannedStep, group: Wanted, title: str) -> str | None:
        if self._cache is None:
            return None
        try:
            return part_key(self._plan, step, group, self._host)
        except NoKeyError as error:
            self._cache.note(f"{title} is not cached: {error}")
            return None


def _found(cache: Cache, key: str, place: Place, verify: Callable[[Made], None]) -> Made | None:
    scratch = place.folder / SCRATCH
    entry = cache.fetch("part", key, scratch)
    if entry is None:
        return None
    try:
        made = _restored(entry, scratch, place)
        verify(made)
    except (CompilekitError, ValidationError, LookupError, TypeError, OSError) as error:
        # The digests are right, so an input changed that the key does not cover.
        cache.note(f"a part from the cache is not used: {error}")
        cache.drop("part", key)
        shutil.rmtree(place.path, ignore_errors=True)
        return None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return made


@contextlib.contextmanager
def _to_keep(made: Made, place: Place) -> Iterator[tuple[dict[str, Path], dict[str, Any]]]:
    """The folders and plain values that the cache stores for a part."""
    rows = [constants.row_of(k, "extra", t, key=k) for k, t in made.extra.items()]
    data = {
        "row": made.row.model_dump(mode="json"),
        "packed": sorted(made.part.packed),
        "extra": [row.model_dump(mode="json") for row in rows],
    }
    with tempfile.TemporaryDirectory(dir=place.folder) as scratch:
        folders = {PART: place.path}
        if made.extra:
            constants.save(made.extra, Path(scratch) / EXTRA)
            folders[""] = Path(scratch)
        yield folders, data


def _verified(made: Made, verify: Callable[[Made], None]) -> Made:
    verify(made)
    return made


def _restored(entry: Entry, scratch: Path, place: Place) -> Made:
    """A cached part in its place; its own tensors get the names that this bundle uses."""
    row = manifest.Part.model_validate_json(json.dumps(entry.data["row"]))
    rows = [manifest.Tensor.model_validate_json(json.dumps(row)) for row in _list(entry, "extra")]
    stored = constants.read(scratch / EXTRA, torch.device("cpu")) if rows else {}
    names = {each.name: place.own(number) for number, each in enumerate(rows)}
    extra = {
        names[each.name]: constants.shaped(each, stored, place.where).to(place.device, copy=True)
        for each in rows
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
    return Made(row.model_copy(update=changes), part, extra, place.device, cached=True)


def _list(entry: Entry, name: str) -> list[Any]:
    found = entry.data[name]
    if not isinstance(found, list):
        raise TypeError(f"{name} is no list")
    return found
