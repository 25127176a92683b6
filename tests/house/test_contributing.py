"""CONTRIBUTING.md names files that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_each_question_and_each_stage_of_a_build_is_answered_by_a_file():
    section = TEXT.partition("## Where things are")[2].partition("\n## ")[0]
    answers = re.findall(r"^\| .*\? \| `(.+)` \|$", section, re.MULTILINE)
    stages = re.findall(r"^\d+\. `(.+?)`", section, re.MULTILINE)
    assert (len(answers), len(stages)) == (12, 10)
    assert [path for path in [*answers, *stages] if not (ROOT / path).is_file()] == []


def test_every_path_of_the_packages_and_tests_exists():
    paths = set(re.findall(r"`((?:compilekit|tests|docs|bench)/[\w./]*)`", TEXT))
    assert len(paths) > 20
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []
