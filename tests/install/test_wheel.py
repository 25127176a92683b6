"""The wheel alone, away from the checkout: it plans a recipe by name, and applies it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = """
import compilekit as ck
from compilekit.testing import tiny_pipeline
assert {installed!r} in ck.__file__, ck.__file__
print(ck.plan("sd/channels-last"))
applied = ck.apply("sd/channels-last", tiny_pipeline("sd"), progress=False)
assert applied.report.end_to_end.psnr > 40
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel, built and installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run([sys.executable, *build], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    install = ["-m", "pip", "install", "--no-deps", "--quiet", "--target", str(target), str(wheel)]
    subprocess.run([sys.executable, *install], check=True, capture_output=True)
    return target


def files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def test_the_wheel_plans_a_recipe_by_name_and_applies_it(installed, tmp_path):
    # Site packages of the environment are needed for torch; the wheel stands before them.
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(installed=str(installed))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sd-channels-last: 1 step on cpu\n")


def test_the_wheel_holds_the_recipes_and_the_type_marker(installed):
    assert files(installed / "compilekit" / "_recipes") == files(ROOT / "recipes")
    assert (installed / "compilekit" / "py.typed").is_file()
    assert (installed / "compilekit_plugins" / "py.typed").is_file()
