"""Fixtures that several tests share: plugins and recipes written inline, tiny pipelines."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from support import EXPORTER, SAMPLE, take_few_times

import compilekit as ck
from compilekit.testing import tiny_pipeline

_NUMBERS = itertools.count()

os.environ["HF_HUB_OFFLINE"] = "1"
# How long an example takes says nothing on a machine that does other work too.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
# Tiny models gain nothing from threads, and lose much when other processes want the cores.
os.environ["OMP_NUM_THREADS"] = "1"
# g++ takes a third less time, and no test asks how fast a wrapper is.
os.environ.setdefault("AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "O0")


LONG = (
    "test_bundles.py",
    "test_gaudi_native.py",
    "test_workloads.py",
    "test_build_cache.py",
    "test_gaudi_bundles.py",
    "test_build.py",
    "test_memory_offloading.py",
    "test_manual_pages.py",
)
"""Files that take minutes: they go first, so that no worker is left with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope="session", autouse=True)
def _nobodys_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is shared by several tests is built beside the user's own cache too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPILEKIT_CACHE", str(tmp_path_factory.mktemp("shared-cache")))
        patch.setenv("COMPILEKIT_REPRO", "")
        yield


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a build cache of its own; nobody's real one is touched."""
    name = f"cache-{next(_NUMBERS)}"
    monkeypatch.setenv("COMPILEKIT_CACHE", str(tmp_path_factory.getbasetemp() / name))
    # Tests of failures leave nothing about; those of reproducers say where.
    monkeypatch.setenv("COMPILEKIT_REPRO", "")


@pytest.fixture(scope="session", autouse=True)
def _short_timing() -> Iterator[None]:
    """Times are taken of as few runs as may be: no test asks how long something took."""
    from compilekit.measure import rates

    with pytest.MonkeyPatch.context() as patch:
        take_few_times(patch)
        patch.setattr(rates, "SECONDS", {"cpu": 0.1, "cuda": 0.1})
        patch.setattr(rates, "TURN", {"cpu": 0.001, "cuda": 0.001})
        yield


@pytest.fixture(scope="session", autouse=True)
def _able_machine() -> Iterator[None]:
    """Plans are for a machine that is slow at nothing, so that they read the same everywhere."""
    able = ck.Machine(
        system="linux",
        cpu="one that has all",
        cpu_flags=("avx512_bf16", "avx512_fp16", "avx512_vnni"),
        cores=2,
        memory=1 << 34,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["compilekit.plan.advice"], "this_machine", lambda: able)
        yield


@pytest.fixture
def float32_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU torch convolves float32 in TF32, which is off by 5e-4; here it does not."""
    import torch

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def process_as_before() -> Iterator[None]:
    """What a step changes for the whole process is put back."""
    from compilekit.measure import state

    before = state.snapshot()
    yield
    state.restore(before)


@pytest.fixture
def sample() -> dict[str, object]:
    """One real call of a tiny pipeline."""
    return dict(SAMPLE)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """Write a file of the test's own: `write("prune.py", "...")`."""

    def _write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return _write


@pytest.fixture(scope="session")
def exporter() -> ck.Host:
    """The built-in plugins, and the tests' own exporter."""
    return ck.load_host([EXPORTER])


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory, exporter: ck.Host) -> Path:
    """A small bundle that no test may write to: a block of a UNet is compiled."""
    target = tmp_path_factory.mktemp("bundles") / "mid"
    steps = "eager_export{components=unet, modules=[mid_block]}"
    recipe = ck.Recipe.from_steps(steps, sample=SAMPLE)
    ck.build(recipe, tiny_pipeline("sd"), target, host=exporter, cache=False, progress=False)
    return target


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Path:
    """A copy of the small bundle, to be spoilt."""
    return Path(shutil.copytree(pristine, tmp_path / "mid"))


@pytest.fixture
def load(exporter: ck.Host) -> Callable[..., Any]:
    """Load a bundle without a word."""

    def _load(folder: Path, **arguments: Any) -> Any:
        return ck.load(folder, **{"host": exporter, "progress": False, **arguments})

    return _load
