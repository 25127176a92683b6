"""`compilekit cache`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from compilekit.base.bytesize import size as shown
from compilekit.cache.entry import ENTRY
from compilekit.cache.store import Cache
from compilekit.cli import app

run = CliRunner().invoke


@pytest.fixture
def filled(tmp_path):
    cache = Cache(Path(os.environ["COMPILEKIT_CACHE"]))
    for age, name in enumerate("ab"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "code.so").write_text("0123456789")
        title = f"torch_compile: unet.{name}"
        cache.store("part", name * 64, {"": folder}, title=title, seconds=30, data={}, inputs={})
        os.utime(cache.folder / "parts" / (name * 64) / ENTRY, (1000 + age, 1000 + age))
    return cache


def test_an_empty_cache_says_so():
    assert run(app, ["cache", "list"]).output == "the build cache is empty\n"
    assert json.loads(run(app, ["cache", "list", "--json"]).stdout) == []


def test_entries_are_listed_the_latest_first(filled):
    lines = run(app, ["cache", "list"]).output.splitlines()
    assert lines[0].split() == ["key", "kind", "what", "size", "took", "last", "used"]
    assert ["unet.b" in lines[1], "unet.a" in lines[2]] == [True, True]
    assert "30 s" in lines[1]
    assert "days ago" in lines[1]
    found = json.loads(run(app, ["cache", "list", "--json"]).stdout)
    assert [each["key"][0] for each in found] == ["b", "a"]
    size = run(app, ["cache", "size"]).output
    assert size.startswith(f"{filled.folder}: {shown(20)} of {shown(50_000_000_000)}")


def test_pruning_wants_to_be_told_what(filled):
    vague = run(app, ["cache", "prune"])
    assert (vague.exit_code, "--limit SIZE, --unused DAYS or --all" in vague.output) == (2, True)
    wrong = run(app, ["cache", "prune", "--limit", "much"])
    assert (wrong.exit_code, 'is not a size; write "20 GB"' in wrong.output) == (2, True)
    assert len(filled.entries()) == len("ab")


def test_pruning_removes_what_was_not_used_for_longest(filled):
    assert (
        run(app, ["cache", "prune", "--limit", "10 b"]).output == f"removed 1 entry, {shown(10)}\n"
    )
    assert [entry.key[0] for entry, _ in filled.entries()] == ["b"]
    assert run(app, ["cache", "prune", "--unused", "1"]).output.startswith("removed 1 entry")
    assert run(app, ["cache", "prune", "--all"]).output == f"removed 0 entries, {shown(0)}\n"
