"""What users and plugins rely on is as it was: a list of it was written before any of it moved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from compat import surface

SAID = Path(__file__).with_name("surface.json")


@pytest.fixture(scope="module")
def said():
    return json.loads(SAID.read_text(encoding="utf-8"))


GONE = {("names", "WholeContext"): {"replay"}}
"""It ran nothing, and returned 0: nothing is recorded when the whole pipeline is exported."""


def test_public_names_commands_and_entry_points_are_the_same(said):
    now = json.loads(json.dumps(surface.surface(), default=str))
    for key, value in said["surface"].items():
        for name, each in value.items():
            if key == "names" and isinstance(each, list):  # attributes may be added
                missing = set(each) - set(now[key][name])
                assert missing == GONE.get((key, name), set()), name
            elif key == "commands":  # options may be added
                assert fits(each, now[key][name]), name
            elif isinstance(each, str) and key == "names":  # keywords with a default may be added
                wanted, given = each.split(", "), now[key][name].split(", ")
                added = [one for one in given if one not in wanted]
                assert [one for one in given if one in wanted] == wanted, name
                assert all(one.startswith("*") and "=" in one for one in added), (name, added)
            else:
                assert now[key][name] == each, (key, name)


def test_every_command_prints_json_of_the_same_form(said, tmp_path):
    now = surface.shapes(tmp_path)
    different = {
        name: (shape, now.get(name))
        for name, shape in said["shapes"].items()
        if not fits(shape, now.get(name))
    }
    assert not different


def fits(wanted, given):
    """Whether all that was there is there still, as the same kind of thing."""
    if wanted in ("null", "any", []) or given in ("null", "any", []):
        return True
    if isinstance(wanted, dict) and isinstance(given, dict):
        return all(key in given and fits(each, given[key]) for key, each in wanted.items())
    if isinstance(wanted, list) and isinstance(given, list) and isinstance(wanted[0], dict):
        return fits(wanted[0], given[0])
    return wanted == given
