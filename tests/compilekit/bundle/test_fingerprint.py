"""How bad it is if a field of the fingerprint differs."""

from __future__ import annotations

import pytest

from compilekit.bundle.fingerprint import default

HUGE = "9" * 5000


@pytest.mark.parametrize(
    ("field", "built", "here", "severity"),
    [
        ("torch", "2.9.0", "2.9.1", "warning"),
        ("torch", "2.9", "2.10", "fatal"),
        ("torch", "02.9", "2.9", "warning"),
        ("torch", f"2.{HUGE}", "2.9", "fatal"),
        ("glibc", "2.9", "2.10", "note"),
        ("glibc", "2.10", "2.9", "fatal"),
        ("glibc", f"2.{HUGE}", "2.9", "fatal"),
        ("driver", "2.9", f"2.{HUGE}", "note"),
        ("driver", "²", "2", "note"),
    ],
)
def test_versions_are_compared_by_their_numbers(field, built, here, severity):
    assert default(field, built, here) == severity
