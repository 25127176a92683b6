"""Fixtures that several tests share: plugins and recipes written inline, tiny pipelines."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
# Tiny models gain nothing from threads, and lose much when other processes want the cores.
os.environ["OMP_NUM_THREADS"] = "1"

SAMPLE = {"prompt": "a cat", "height": 64, "width": 64, "num_inference_steps": 2, "seed": 7}


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
