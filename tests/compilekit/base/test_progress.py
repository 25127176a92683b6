"""Long work is seen to go on: a live line on a terminal, a line for each stage in a log."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from compilekit import Manifest
from compilekit.base.progress import Progress
from compilekit.bundle.files import check_files


def progress(*, terminal: bool) -> tuple[Progress, io.StringIO]:
    text = io.StringIO()
    return Progress(console=Console(file=text, force_terminal=terminal, width=100)), text


@pytest.mark.parametrize("brief", [False, True])
def test_a_log_gets_a_line_for_each_stage_but_brief_ones(brief: bool) -> None:
    shown, text = progress(terminal=False)
    with shown.stage("importing torch", brief=brief):
        shown.say("importing torch", "half")
        shown.read("importing torch", 5, 10)
    assert text.getvalue() == ("" if brief else "importing torch  0.0 s\n")


def test_a_terminal_shows_how_much_was_read_and_when_it_will_be_done() -> None:
    shown, text = progress(terminal=True)
    with shown.stage("checking", brief=True):
        shown.read("checking", 25_000_000, 100_000_000)
        shown.read("checking", 25_000_000, 100_000_000)
    assert "checking: 50 MB of 100 MB, about 0 s left" in text.getvalue()


def test_checking_a_bundle_counts_every_byte(pristine: Path) -> None:
    manifest = Manifest.read(pristine)
    shown, text = progress(terminal=True)
    check_files(pristine, manifest, shown)
    whole = sum(file.size for file in manifest.files) / 1e6
    assert f"{whole:.3g} MB of {whole:.3g} MB, about 0 s left" in text.getvalue()
