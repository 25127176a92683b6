"""Builds that are killed, and builds that run at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

FIRE = Path(__file__).with_name("fire.py")


@pytest.fixture
def scenario(tmp_path):
    def run(name, *more):
        done = subprocess.run(
            [sys.executable, str(FIRE), name, str(tmp_path), *more],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.timeout(600)
@pytest.mark.parametrize("points", [6, pytest.param(20, marks=pytest.mark.full)])
def test_a_build_killed_at_any_write_leaves_nothing_wrong_and_its_parts_to_the_next(
    scenario, points
):
    found = scenario("killed", str(points))
    assert len(found) == len({each["point"] for each in found}) == points
    for each in found:
        assert each["killed"], each
        assert each["bundle_right"] in (None, True), each
        assert each["next_good"], each
        assert each["leftovers"] == [], each
        assert each["exported_again"] == (0 if each["part_was_finished"] else 1), each
    # Some were killed before the part was in the cache, and some after.
    assert {each["part_was_finished"] for each in found} == {False, True}


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_real_build_killed_at_random_leaves_nothing_wrong(scenario):
    for each in scenario("real"):
        assert each == {**each, "killed": True, "next_good": True, "leftovers": []}
        assert each["bundle_right"] in (None, True)


def test_four_builds_of_one_thing_do_the_work_once(scenario):
    assert scenario("at_once") == {"codes": [0] * 4, "good": [True] * 4, "exports": 1}


@pytest.mark.full
def test_two_different_builds_at_once_do_no_harm(scenario):
    assert scenario("different") == {"codes": [0, 0], "good": [True, True], "exports": 2}


@pytest.mark.full
def test_when_a_holder_of_locks_is_killed_the_others_go_on(scenario):
    assert scenario("holder_killed") == {
        "waited": True,
        "holder": -signal.SIGKILL,
        "codes": [0, 0],
        "good": [True, True],
        "exports": 1,
    }
