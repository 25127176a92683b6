"""However a bundle's manifest or its weights' headers are mutated, it loads or is refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import INTERNALS, KEYS, VALUES, mutated, tree

import compilekit as ck

MANIFEST_VALUES = ("unet", "parts", "os", "diffusers", "parameter", "float32", "0" * 64, "tensor:x")
HEADER_VALUES = ("F32", "F64", "U8", "F4", [0, 8], [8, 0], [-1, 2**63], [2**62, 2**62])
LENGTH = 8
"""A safetensors file begins with the length of its header, in so many bytes."""


def some(count: int) -> Any:
    # What is drawn depends on the bundle at hand, so examples of earlier runs would be nonsense.
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=count, database=None, suppress_health_check=checks)


@contextlib.contextmanager
def replaced(path: Path, content: bytes) -> Iterator[None]:
    """Other content for a file, for a while."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


@pytest.fixture(scope="session")
def manifests(pristine: Path) -> Any:
    data = json.loads((pristine / "manifest.json").read_text())
    return mutated([tree(data)], VALUES + MANIFEST_VALUES, KEYS)


@pytest.fixture(scope="session")
def headers(pristine: Path) -> dict[str, Any]:
    """Mutated headers of each file of weights, by its path in the bundle."""
    found = {}
    for path in sorted(pristine.rglob("*.safetensors")):
        content = path.read_bytes()
        end = LENGTH + int.from_bytes(content[:LENGTH], "little")
        data = tree(json.loads(content[LENGTH:end]))
        found[str(path.relative_to(pristine))] = mutated([data], VALUES + HEADER_VALUES, KEYS)
    return found


@pytest.fixture
def check(bundle: Path, load: Callable[..., Any]) -> Callable[[], None]:
    """Check that the bundle is loaded, or refused with a message for people."""

    def outcome() -> ck.CompilekitError | None:
        try:
            load(bundle)
        except ck.CompilekitError as error:
            return error
        return None

    def _check() -> None:
        with warnings.catch_warnings():
            # A bundle for another machine may be loaded with a warning.
            warnings.simplefilter("ignore")
            error = outcome()
        if error is not None:
            assert not INTERNALS.search(str(error))
            assert all(line.isprintable() for line in str(error).split("\n"))

    return _check


@pytest.fixture
def change(
    bundle: Path, manifests: Any, headers: dict[str, Any]
) -> dict[str, Callable[[Any], contextlib.AbstractContextManager[None]]]:
    """What changes the bundle for a while, by what it mutates."""

    def manifest(data: Any) -> contextlib.AbstractContextManager[None]:
        text = data.draw(manifests).encode(errors="surrogatepass")
        return replaced(bundle / "manifest.json", text)

    @contextlib.contextmanager
    def header(data: Any) -> Iterator[None]:
        name = data.draw(st.sampled_from(sorted(headers)))
        text = data.draw(headers[name]).encode(errors="surrogatepass")
        before = (bundle / name).read_bytes()
        end = LENGTH + int.from_bytes(before[:LENGTH], "little")
        content = len(text).to_bytes(LENGTH, "little") + text + before[end:]
        listed = json.loads((bundle / "manifest.json").read_text())
        (row,) = (row for row in listed["files"] if row["path"] == name)
        row.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
        new = json.dumps(listed).encode()
        with replaced(bundle / name, content), replaced(bundle / "manifest.json", new):
            yield

    return {"manifest": manifest, "header of weights": header}


MUTATED = pytest.mark.parametrize("what", ["manifest", "header of weights"])


@MUTATED
@some(150)
@given(data=st.data())
def test_a_mutated_bundle_loads_or_is_refused(data, what, change, check):
    with change[what](data):
        check()


@pytest.mark.full
@pytest.mark.timeout(3600)
@MUTATED
@some(2500)
@given(data=st.data())
def test_many_mutated_bundles_load_or_are_refused(data, what, change, check):
    with change[what](data):
        check()
