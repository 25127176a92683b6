"""Leaves of nested containers, each with a path of its own."""

from __future__ import annotations

from compilekit.base.nested import leaves


def test_paths_are_dotted():
    assert leaves({"a": [1, {"b-c": 2}], "d": (3,)}) == {"a.0": 1, "a.1.b-c": 2, "d.0": 3}


def test_no_two_leaves_share_a_path():
    tricky = {
        "a.b": 1,
        "a": {"b": 2, "": 3, 0: 4, "0": 5, "[0]": 6, 0.5: 7, None: 8, "None": 9},
        "": {"a": 10},
        "['a.b']": 11,
        1: [12],
    }
    assert sorted(leaves(tricky).values()) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert leaves({"a.b": 1, "a": {"b": 2}}) == {"['a.b']": 1, "a.b": 2}
