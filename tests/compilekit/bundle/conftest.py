"""A small bundle, built once: a block of a UNet compiled by an exporter of the tests' own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import compilekit as ck
from compilekit.testing import tiny_pipeline

EXPORTER = Path(__file__).parents[2] / "plugins" / "eager_export.py"
SAMPLE = {"prompt": "a cat", "height": 64, "width": 64, "num_inference_steps": 2, "seed": 7}


@pytest.fixture(scope="session")
def exporter() -> ck.Host:
    """The built-in plugins, and the tests' own exporter."""
    return ck.load_host([EXPORTER])


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory, exporter: ck.Host) -> Path:
    """A bundle that no test may write to."""
    target = tmp_path_factory.mktemp("bundles") / "mid"
    recipe = ck.Recipe.from_steps("eager_export{components=unet, module=mid_block}", sample=SAMPLE)
    ck.build(recipe, tiny_pipeline("sd"), target, host=exporter, progress=False)
    return target


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to be spoilt."""
    return Path(shutil.copytree(pristine, tmp_path / "mid"))


@pytest.fixture
def load(exporter: ck.Host) -> Callable[..., Any]:
    """Load a bundle without a word."""

    def _load(folder: Path, **arguments: Any) -> Any:
        return ck.load(folder, **{"host": exporter, "progress": False, **arguments})

    return _load


def draw(pipeline: Any, **changes: Any) -> Any:
    """The sample's picture, as an array."""
    arguments = {key: value for key, value in SAMPLE.items() if key != "seed"}
    arguments |= {"generator": torch.Generator().manual_seed(7), "output_type": "np", **changes}
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(**arguments).images
