"""The manual is true: what its pages show happens.

A comment before a fenced block says what the block is:

    <!-- tested -->             python that is run, with the others of its page, in order
    <!-- file: NAME -->         is written to a file first
    <!-- wrong: NAME -->        the same, and as a recipe it must be refused
    <!-- output of: COMMAND --> is exactly what the command prints
    <!-- prints -->             is exactly what the python block before it prints
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import compilekit as ck
from compilekit.recipe import read
from compilekit.studies.tune.space import given

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
LONG = ("python.md", "bundles.md")
"""Pages that build several bundles."""
ALL_FILES = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
FENCE = re.compile(
    r"(?:<!-- (?P<mark>[^\n]+) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)```\n", re.DOTALL
)


class Block(NamedTuple):
    """A fenced block, and what the comment before it says."""

    mark: str
    argument: str
    kind: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = []
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        mark, _, argument = (match["mark"] or "").partition(":")
        found.append(Block(mark.strip(), argument.strip(), match["kind"], match["text"]))
    return found


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Stable Diffusion in a folder, which draws 32x32 if no size is given."""
    from compilekit.testing import tiny_pipeline

    folder = tmp_path_factory.mktemp("model") / "my-model"
    pipeline = tiny_pipeline("sd")
    pipeline.unet.register_to_config(sample_size=16)
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_files(page: Path, place: Path) -> None:
    """Write the files that a page shows."""
    for block in blocks(page):
        if block.mark in ("file", "wrong"):
            path = place / block.argument
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text, encoding="utf-8")


def test_every_marker_is_a_known_one_and_every_python_block_is_run_or_a_file() -> None:
    marks = {"", "tested", "file", "wrong", "output of", "prints"}
    for page in ALL_FILES:
        for block in blocks(page):
            assert block.mark in marks, f"{page.name}: {block.mark}"
            if block.kind == "python":
                assert block.mark in ("tested", "file"), f"{page.name}:\n{block.text}"


@pytest.mark.parametrize("page", ALL_FILES, ids=lambda page: page.name)
def test_no_merge_is_half_done(page: Path) -> None:
    assert not re.findall(r"^(?:<{7}|={7}|>{7})", page.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("page", ALL_FILES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file), target


def anchors(page: Path) -> list[str]:
    """The anchors that readers of Markdown make of headings."""
    headings = re.findall(
        r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE
    )
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_recipe_that_is_shown_can_be_planned_and_every_wrong_one_not(
    page: Path, place: Path
) -> None:
    write_files(page, place)
    for block in blocks(page):
        path = place / (block.argument if block.argument.endswith(".yaml") else "shown.yaml")
        path.write_text(block.text, encoding="utf-8")
        if block.mark == "wrong":
            with pytest.raises(ck.RecipeError):
                ck.plan(path)
        elif block.kind == "yaml" and "choices:" in block.text:
            assert given(read(path), ck.load_host(), "apply").size > 1
        elif block.kind == "yaml" and re.match(r"compilekit: 1\n|extends: ", block.text):
            # What is for another machine alone is built, and never applied here.
            ck.plan(path, for_="build" if "device: neuron" in block.text else "apply")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_print_what_the_page_shows(page: Path, place: Path) -> None:
    write_files(page, place)
    for block in blocks(page):
        if block.mark != "output of":
            continue
        name, *arguments = block.argument.split()
        command = [Path(sys.executable).parent / name, *arguments]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
            env={**os.environ, "COLUMNS": "100"},
        )
        # What this machine is bad at is no part of the page.
        lines = (done.stdout + done.stderr).splitlines(keepends=True)
        assert "".join(line for line in lines if not line.startswith("advice: ")) == block.text


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.full] if page.name in LONG else []) for page in PAGES],
    ids=lambda page: page.name,
)
def test_the_python_of_a_page_runs(page: Path, place: Path, small_model: Path) -> None:
    write_files(page, place)
    (place / "my-model").symlink_to(small_model)
    namespace: dict[str, Any] = {}
    printed = ""
    for block in blocks(page):
        if block.mark == "tested":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(block.text, str(page), "exec"), namespace)  # noqa: S102
            printed = output.getvalue()
        elif block.mark == "prints":
            assert printed == block.text


def test_the_example_plugin_runs_as_a_script_and_is_short(place: Path) -> None:
    example = next(block for block in blocks(DOCS / "plugins.md"))
    assert example.argument == "prune_small.py"
    assert len(example.text.splitlines()) < 40
    write_files(DOCS / "plugins.md", place)
    namespace = {"__name__": "__main__", "__file__": str(place / "prune_small.py")}
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(example.text, "prune_small.py", "exec"), namespace)  # noqa: S102
    assert 0 < float(output.getvalue()) < 0.05
