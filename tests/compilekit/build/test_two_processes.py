"""The build cache hits in another process, with another order of sets and other addresses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import EXPORTER
from typer.testing import CliRunner

from compilekit.cli import app
from compilekit.testing import tiny_pipeline

BUILDS = Path(__file__).with_name("builds.py")
COMPILED = {
    "sd": ["unet.mid_block.resnets.0", "text_encoder"],
    "sdxl": ["unet.mid_block.resnets.0"],
    "flux": ["transformer.transformer_blocks.0"],
    "module": ["model"],
    "package": ["model"],
}
LAYERS = """
from torch import nn

class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x):
        return {"y": self.inner(x) * 2}
"""


def write_package(folder: Path) -> None:
    """A distribution whose plugin is a package of several modules."""
    package = folder / "packed"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from packed.hooks import *\n")
    (package / "hooks.py").write_text(EXPORTER.read_text(encoding="utf-8"))
    (package / "layers.py").write_text(LAYERS)
    info = folder / "packed-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: packed\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[compilekit]\npacked = packed\n")


class World:
    """Models, a plugin and a cache in folders; each run is a new process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"

    def run(self, seed: int, models: str) -> dict[str, dict[str, object]]:
        path = os.pathsep.join([str(self.folder / "site"), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, BUILDS, self.folder / models],
            capture_output=True,
            text=True,
            check=False,
            env={
                **os.environ,
                "PYTHONHASHSEED": str(seed),
                "PYTHONPATH": path,
                "COMPILEKIT_CACHE": str(self.cache),
            },
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, dict[str, object]] = json.loads(done.stdout.splitlines()[-1])
        return answer

    def command(self, *arguments: str) -> str:
        done = CliRunner().invoke(app, arguments, env={"COMPILEKIT_CACHE": str(self.cache)})
        assert done.exit_code == 0, done.output
        return done.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    write_package(folder / "site")
    for kind in ("sd", "sdxl", "flux"):
        tiny_pipeline(kind).save_pretrained(folder / "models" / kind)
    return World(folder)


@pytest.fixture(scope="module")
def runs(world: World) -> list[dict[str, dict[str, object]]]:
    """A process, one with another seed, and one with copies of models and an edited file."""
    first, second = world.run(1, "models"), world.run(2, "models")
    shutil.copytree(world.folder / "models", world.folder / "copies")
    with (world.folder / "site" / "packed" / "hooks.py").open("a", encoding="utf-8") as hooks:
        hooks.write("\nEDITED = True\n")
    return [first, second, world.run(3, "copies")]


@pytest.mark.parametrize("kind", COMPILED)
def test_another_process_compiles_nothing_again(kind, runs):
    first, second, _ = runs
    assert first[kind] == {"compiled": COMPILED[kind], "is_copy": False, "reused": 0}
    assert second[kind]["compiled"] == []
    assert second[kind]["reused"] == len(COMPILED[kind])
    # Of the user's own code a part may be used again, a whole bundle may not.
    assert second[kind]["is_copy"] == (kind in ("sd", "sdxl", "flux"))


def test_a_copy_of_the_model_elsewhere_is_the_same_model(runs):
    assert [runs[2][kind]["is_copy"] for kind in ("sd", "sdxl", "flux")] == [True] * 3


def test_an_edit_of_any_file_of_a_plugins_package_compiles_again(runs, world):
    assert runs[2]["package"]["compiled"] == ["model"]
    keys = [
        row["key"]
        for row in json.loads(world.command("cache", "list", "--json"))
        if row["what"] == "packed: model"
    ]
    (row,) = [
        row
        for row in json.loads(world.command("cache", "why", *keys, "--json"))
        if not row["input"].startswith("code > ")
    ]
    assert row["input"] == "plugins > packed > code"
    assert row["first"] != row["second"]
