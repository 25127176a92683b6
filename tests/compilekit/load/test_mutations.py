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


def check_manifest(data: Any, manifests: Any, bundle: Path, check: Callable[[], None]) -> None:
    text = data.draw(manifests).encode(errors="surrogatepass")
    with replaced(bundle / "manifest.json", text):
        check()


def check_header(data: Any, headers: Any, bundle: Path, check: Callable[[], None]) -> None:
    name = data.draw(st.sampled_from(sorted(headers)))
    header = data.draw(headers[name]).encode(errors="surrogatepass")
    before = (bundle / name).read_bytes()
    end = LENGTH + int.from_bytes(before[:LENGTH], "little")
    content = len(header).to_bytes(LENGTH, "little") + header + before[end:]
    manifest = json.loads((bundle / "manifest.json").read_text())
    (row,) = (row for row in manifest["files"] if row["path"] == name)
    row.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    with (
        replaced(bundle / name, content),
        replaced(bundle / "manifest.json", json.dumps(manifest).encode()),
    ):
        check()


@some(200)
@given(data=st.data())
def test_a_mutated_manifest_loads_or_is_refused(data, manifests, bundle, check):
    check_manifest(data, manifests, bundle, check)


@some(100)
@given(data=st.data())
def test_a_mutated_header_of_weights_loads_or_is_refused(data, headers, bundle, check):
    check_header(data, headers, bundle, check)


@pytest.mark.full
@pytest.mark.timeout(3600)
@some(3300)
@given(data=st.data())
def test_many_mutated_manifests_load_or_are_refused(data, manifests, bundle, check):
    check_manifest(data, manifests, bundle, check)


@pytest.mark.full
@pytest.mark.timeout(3600)
@some(1400)
@given(data=st.data())
def test_many_mutated_headers_of_weights_load_or_are_refused(data, headers, bundle, check):
    check_header(data, headers, bundle, check)
