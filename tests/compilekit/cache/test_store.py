"""The build cache's folder: what goes in comes out, or does not come out at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from shutil import rmtree

import pytest
from filelock import BaseFileLock, SoftFileLock

import compilekit as ck
from compilekit.base.bytesize import parse_size
from compilekit.base.staging import staged
from compilekit.cache import settings
from compilekit.cache.entry import ENTRY
from compilekit.cache.store import Cache

KEY, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def notes():
    return []


@pytest.fixture
def cache(tmp_path, notes):
    return Cache(tmp_path / "cache", note=notes.append)


def keep(cache, key, files, data=None):
    folder = cache.folder.parent / f"made-{key[:4]}"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    cache.store(
        "part", key, {"": folder}, title=f"part {key[0]}", seconds=1.5, data=data or {}, inputs={}
    )


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def test_files_and_data_come_back(cache, tmp_path, notes):
    keep(cache, KEY, {"code.so": "code", "kernels/k.cubin": "k"}, {"packed": ["w"], "n": 1.0})
    entry = cache.fetch("part", KEY, tmp_path / "out")
    assert entry.data == {"packed": ["w"], "n": 1.0}
    assert (entry.title, entry.seconds, entry.size) == ("part a", 1.5, 5)
    assert contents(tmp_path / "out") == {"code.so": "code", "kernels/k.cubin": "k"}
    assert notes == []


def test_what_is_not_there_is_none(cache, tmp_path):
    assert cache.fetch("part", KEY, tmp_path / "out") is None
    keep(cache, KEY, {"x": "x"})
    assert cache.fetch("bundle", KEY, tmp_path / "out") is None
    assert cache.fetch("part", OTHER, tmp_path / "out") is None


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda entry: flip(entry / "files" / "x"),
        lambda entry: (entry / "files" / "x").unlink(),
        lambda entry: (entry / "files" / "x").write_text(""),
        lambda entry: flip(entry / ENTRY),
        lambda entry: (entry / ENTRY).write_text("{}"),
        lambda entry: (entry / ENTRY).write_text(
            (entry / ENTRY).read_text().replace("part a", "part z")
        ),
        lambda entry: entry.rename(entry.with_name(OTHER)),
    ],
    ids=["flipped", "missing", "cut", "entry flipped", "entry empty", "title", "moved"],
)
def test_a_damaged_entry_is_dropped_and_told(cache, tmp_path, notes, spoil):
    keep(cache, KEY, {"x": "some text"})
    spoil(cache.folder / "parts" / KEY)
    for key in (KEY, OTHER):
        assert cache.fetch("part", key, tmp_path / "out") is None
    assert not (tmp_path / "out").exists()
    assert len(notes) == 1
    assert "a damaged entry of the cache is dropped" in notes[0]
    assert list((cache.folder / "parts").iterdir()) == []


def test_a_path_that_leads_out_of_the_cache_is_no_entry(cache, tmp_path):
    keep(cache, KEY, {"x": "some text"})
    path = cache.folder / "parts" / KEY / ENTRY
    path.write_text(path.read_text().replace('"x"', '"../../../escaped"'))
    assert cache.fetch("part", KEY, tmp_path / "deep" / "out") is None
    assert not (tmp_path / "escaped").exists()


def test_over_the_limit_the_longest_unused_goes(cache, tmp_path):
    cache.limit = 25
    for age, key in enumerate("cba"):
        keep(cache, key * 64, {"x": "0123456789"})
        os.utime(cache.folder / "parts" / (key * 64) / ENTRY, (100 + age, 100 + age))
    assert [entry.key[0] for entry, _ in cache.entries()] == ["a", "b"]
    cache.fetch("part", OTHER, tmp_path / "out")
    assert [entry.key[0] for entry, _ in cache.entries()] == ["b", "a"]
    assert [entry.key[0] for entry in cache.prune(limit=10)] == ["a"]
    assert [entry.key[0] for entry in cache.prune(unused_since=2e10)] == ["b"]


def test_what_killed_processes_have_left_goes_with_the_next_pruning(cache):
    keep(cache, KEY, {"x": "x"})
    home = cache.folder / "parts"
    for name in (f".{OTHER}.partial-0", f".{OTHER}.gone-1-2"):
        (home / name).mkdir()
        (home / name / "x").write_text("x")
    (home / f".{OTHER}.partial-0.lock").touch()
    with staged(home / ("c" * 64)) as busy:
        assert cache.prune() == []
        assert busy.is_dir()
    assert sorted(path.name for path in home.iterdir()) == [KEY, "c" * 64]


def test_what_is_larger_than_the_limit_is_not_kept(cache, notes):
    cache.limit = 5
    keep(cache, KEY, {"x": "0123456789"})
    assert notes == ["part a is not kept in the cache: 10 bytes are over its limit"]
    assert cache.entries() == []


def test_what_a_build_is_using_is_not_pruned(cache):
    keep(cache, KEY, {"x": "x"})
    with cache.working_on("part", KEY, "part a"):
        assert cache.prune(limit=0) == []
    assert len(cache.prune(limit=0)) == 1


def test_a_cache_that_cannot_be_written_is_told_and_no_error(cache, notes, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("compilekit.cache.store.write", full)
    keep(cache, KEY, {"x": "x"})
    assert len(notes) == 1
    assert "part a is not kept in the cache" in notes[0]
    assert "no space is left" in notes[0]
    assert list((cache.folder / "parts").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error_with_a_way_out(tmp_path):
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "cache")
    with pytest.raises(ck.UsageError, match=r"COMPILEKIT_CACHE, or build with --no-cache"):
        cache.working_on("part", KEY, "part").__enter__()


def refuse(error):
    def acquire(self, **_):
        raise error

    return acquire


def soften(self, **_):
    """What filelock does where `flock` is not implemented."""
    self.__class__ = type("Soft", (SoftFileLock,), {})


@pytest.mark.parametrize(
    "acquire",
    [refuse(OSError(errno.ENOLCK, "No locks available")), refuse(NotImplementedError()), soften],
    ids=["no locks", "not implemented", "soft"],
)
def test_a_file_system_without_locks_is_an_error_with_a_way_out(cache, monkeypatch, acquire):
    monkeypatch.setattr(BaseFileLock, "acquire", acquire)
    with pytest.raises(ck.UsageError, match=r"no locks that survive .*--no-cache"):
        cache.working_on("part", KEY, "part").__enter__()


@pytest.mark.parametrize(
    ("text", "size"),
    [("20 GB", 20_000_000_000), ("1.5m", 1_500_000), (" 7 b ", 7), ("2KB", 2000), ("1KiB", 1024)],
)
def test_sizes_are_read(text, size):
    assert parse_size(text, "it") == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "many",
        "-1",
        "-1 GB",
        "0",
        "0.0 GB",
        "5 XB",
        "nan",
        "1e99",
        "1 GB 2",
        "1 GB!",
        "1.2.3 GB",
    ],
)
def test_what_is_not_a_size_is_refused(text):
    with pytest.raises(ck.UsageError, match=r'it: ".*" is not a size; write "20 GB"'):
        parse_size(text, "it")


def test_the_environment_says_where_and_how_large(monkeypatch):
    monkeypatch.setenv("COMPILEKIT_CACHE", "/somewhere")
    monkeypatch.setenv("COMPILEKIT_CACHE_LIMIT", "3 GB")
    assert (settings.folder(), settings.limit()) == (Path("/somewhere"), 3_000_000_000)
    monkeypatch.delenv("COMPILEKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/me/cache")
    assert settings.folder() == Path("/home/me/cache/compilekit")
    monkeypatch.setenv("HOME", "/home/you")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert settings.folder() == Path("/home/you/.cache/compilekit")


def test_a_home_in_the_name_of_the_cache_is_found(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COMPILEKIT_CACHE", "~/cache")
    assert settings.folder() == tmp_path / "cache"


def test_a_cache_without_locks_is_told_where_it_is_pruned(cache):
    keep(cache, KEY, {"x": "x"})
    rmtree(cache.folder / "locks")
    (cache.folder / "locks").touch()
    with pytest.raises(ck.UsageError, match="has no locks that survive a killed process"):
        cache.prune(limit=0)


def test_inputs_that_are_no_mapping_are_told(cache):
    keep(cache, KEY, {"x": "x"})
    ((entry, _),) = cache.entries()
    (cache.folder / "parts" / KEY / "inputs.json").write_text("[1]")
    with pytest.raises(ck.UsageError, match=r"inputs.json: holds no mapping"):
        cache.why(entry, entry)
