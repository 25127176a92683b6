"""Building quietly, and a module that several tests build."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import SAMPLE

import compilekit as ck
from compilekit.testing import tiny_pipeline


@pytest.fixture
def build(tmp_path: Path, exporter: ck.Host) -> Callable[..., ck.Manifest]:
    """Build a bundle called `made`, without a word."""

    def _build(recipe: Any, subject: Any = None, **arguments: Any) -> Any:
        if isinstance(recipe, str):
            recipe = ck.Recipe.from_steps(recipe, sample=SAMPLE if subject is None else None)
        subject = tiny_pipeline("sd") if subject is None else subject
        arguments = {"host": exporter, "progress": False, **arguments}
        return ck.build(recipe, subject, tmp_path / "made", **arguments)

    return _build
