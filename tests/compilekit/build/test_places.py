"""Places that cannot be written to, are full, or are taken."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from support import Twice

import compilekit as ck

INPUTS = {"x": torch.linspace(-1, 1, 16).reshape(2, 8)}


@pytest.fixture
def build(exporter):
    def _build(target, **more):
        recipe = ck.Recipe.from_steps("eager_export{components=model}")
        arguments = {"inputs": INPUTS, "host": exporter, "progress": False, **more}
        return ck.build(recipe, Twice().eval(), target, **arguments)

    return _build


@pytest.fixture
def mounted(tmp_path):
    """Mounts a small file system of its own, where that is allowed."""
    made = []

    def mount(options):
        place = tmp_path / "mounted"
        place.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
        made.append(place)
        return place

    yield mount
    for place in reversed(made):
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("kilobytes", [4, 12, 20])
def test_a_full_device_is_one_message_and_leaves_nothing(build, mounted, kilobytes):
    place = mounted(f"size={kilobytes}k")
    with pytest.raises(ck.MachineError, match=r"made: no space is left on the device"):
        build(place / "made", cache=False)
    assert list(place.iterdir()) == []


def test_a_full_cache_is_told_and_the_build_goes_on(build, mounted, monkeypatch, capsys, load):
    place = mounted("size=8k")
    monkeypatch.setenv("COMPILEKIT_CACHE", str(place / "cache"))
    built = build(place.parent / "made", progress=True)
    assert "is not kept in the cache" in capsys.readouterr().err
    load(built.path)
    assert not [path for path in place.rglob("*") if ".partial-" in path.name]


def test_a_place_that_is_read_only_is_named(build, mounted):
    place = mounted("ro")
    with pytest.raises(ck.UsageError, match=r"made: cannot write there: Read-only file system"):
        build(place / "made", cache=False)


def test_a_cache_that_is_read_only_is_named_with_a_way_out(build, mounted, monkeypatch, tmp_path):
    monkeypatch.setenv("COMPILEKIT_CACHE", str(mounted("ro") / "cache"))
    with pytest.raises(ck.UsageError, match=r"Read-only file system; name another folder in COMP"):
        build(tmp_path / "made")
    assert build(tmp_path / "made", cache=False).path.is_dir()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_without_permission_it_is_named(build, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(ck.UsageError, match=r"made: cannot write there: Permission denied"):
        build(tmp_path / "closed" / "made", cache=False)


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_a_target_that_is_there_is_left_as_it_is(build, tmp_path, kind):
    target = tmp_path / "made"
    if kind == "folder":
        target.mkdir()
        (target / "precious").write_text("x")
    elif kind == "file":
        target.write_text("x")
    else:
        target.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ck.UsageError, match=r"made: is there already"):
        build(target)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert target.is_symlink() or target.is_dir() or Path(target).read_text() == "x"
