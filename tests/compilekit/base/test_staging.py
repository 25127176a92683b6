"""Folders that get their name when they are whole."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

import compilekit as ck
from compilekit.base.staging import claimed, staged


def test_a_folder_gets_its_name_only_when_all_went_well(tmp_path):
    target = tmp_path / "made"
    with pytest.raises(ZeroDivisionError), staged(target) as folder:  # noqa: PT012
        (folder / "x").write_text("x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with staged(target) as folder:
        (folder / "x").write_text("x")
        assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_what_is_there_already_is_not_written_over(tmp_path):
    target = tmp_path / "made"
    target.mkdir()
    (target / "precious").write_text("x")
    with pytest.raises(ck.UsageError, match="made: is there already"), staged(target):
        pytest.fail("it was about to be written over")
    assert (target / "precious").read_text() == "x"


def test_an_empty_folder_counts_as_nothing(tmp_path):
    (tmp_path / "made").mkdir()
    with staged(tmp_path / "made") as folder:
        (folder / "x").write_text("x")
    assert (tmp_path / "made" / "x").exists()


def test_folders_made_on_the_way_go_away_with_it(tmp_path):
    with pytest.raises(ZeroDivisionError), staged(tmp_path / "a" / "b" / "made"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_has_left_is_swept_away_and_a_running_ones_is_not(tmp_path):
    script = """
import os, signal, sys
from pathlib import Path
from compilekit.base.staging import claimed, staged
with staged(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    target = tmp_path / "made"
    subprocess.run([sys.executable, "-c", script, str(target)], check=False)
    left = {path.suffix for path in tmp_path.iterdir()}
    assert len(left) == len(["the folder", "its mark"])
    with staged(target) as mine:
        assert all(path.name.startswith(mine.name) for path in tmp_path.iterdir())
        with pytest.raises(ZeroDivisionError), staged(target):
            raise ZeroDivisionError
        assert mine.is_dir()
    assert list(tmp_path.iterdir()) == [target]


def test_of_two_that_write_the_same_the_first_to_finish_wins(tmp_path):
    target = tmp_path / "made"
    with (
        pytest.raises(ck.UsageError, match="is there already"),
        staged(target),
        staged(target) as second,
    ):
        (second / "x").write_text("second")
    assert (target / "x").read_text() == "second"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_device_is_named_however_deep_it_is(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ck.MachineError, match="made: no space is left"), staged(tmp_path / "made"):
        raise RuntimeError("cannot serialise") from full
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_became_too_large_is_named(tmp_path):
    said = "made: a file became larger than the system allows; what was written"
    with pytest.raises(ck.MachineError, match=said), staged(tmp_path / "made"):
        raise OSError(errno.EFBIG, "File too large")


def test_a_name_is_held_from_the_start(tmp_path):
    target = tmp_path / "out" / "made"
    with claimed(target):
        with pytest.raises(ck.UsageError, match="made: another process is writing it at this mom"):
            claimed(target).__enter__()
        with claimed(tmp_path / "out" / "other"), staged(target) as folder:
            (folder / "x").write_text("x")
    with pytest.raises(ck.UsageError, match="made: is there already"):
        claimed(target).__enter__()
    assert [path.name for path in target.parent.iterdir()] == ["made"]


def test_a_name_that_a_killed_process_held_is_free(tmp_path):
    code = """
import os, sys
from pathlib import Path
from compilekit.base.staging import claimed
with claimed(Path(sys.argv[1])):
    os._exit(9)
"""
    target = tmp_path / "made"
    done = subprocess.run([sys.executable, "-c", code, target], check=False)
    assert (done.returncode, [path.name for path in tmp_path.iterdir()]) == (9, [".made.claim"])
    with pytest.raises(ZeroDivisionError), claimed(target):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
