"""What the control groups leave to this process."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from compilekit.base import control_groups

ALL = 8000 * 1024


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Write a file of the kernel; at first there are eight cores, 8 MB, and no groups."""

    def _put(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"{text}\n")

    monkeypatch.setattr(control_groups, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(control_groups, "_GROUPS", tmp_path / "groups")
    memory = SimpleNamespace(available=ALL, total=ALL)
    monkeypatch.setattr(control_groups.psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(control_groups.os, "sched_getaffinity", lambda _: set(range(8)))
    return _put


def test_memory_is_what_the_groups_leave(put):
    def free_and_total():
        return control_groups.free_bytes(), control_groups.total_bytes()

    assert free_and_total() == (ALL, ALL)
    put("proc/self/cgroup", "0::/pod/box")
    put("groups/pod/box/memory.max", "max")
    assert free_and_total() == (ALL, ALL)
    put("groups/pod/memory.max", "5000")
    put("groups/pod/memory.current", "3000")
    assert free_and_total() == (2000, 5000)
    put("groups/pod/memory.stat", "anon 1\ninactive_file 500")
    assert free_and_total() == (2500, 5000)
    put("proc/self/cgroup", "4:memory:/old\n0::/")
    put("groups/memory/old/memory.limit_in_bytes", "700")
    put("groups/memory/old/memory.usage_in_bytes", "600")
    assert free_and_total() == (100, 700)


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/pod/box", {}, 8),
        ("0::/pod/box", {"pod/box/cpu.max": "max 100000"}, 8),
        ("0::/pod/box", {"pod/box/cpu.max": "150000 100000"}, 2),
        ("0::/pod/box", {"pod/cpu.max": "400000 100000"}, 4),
        ("3:cpu:/old", {"cpu/old/cpu.cfs_quota_us": -1, "cpu/old/cpu.cfs_period_us": 9}, 8),
        ("3:cpu:/old", {"cpu/old/cpu.cfs_quota_us": 9, "cpu/old/cpu.cfs_period_us": 9}, 1),
    ],
)
def test_cores_are_those_that_the_groups_leave(put, groups, files, cores):
    put("proc/self/cgroup", groups)
    for name, text in files.items():
        put(f"groups/{name}", text)
    assert control_groups.cores() == cores
