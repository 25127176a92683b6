"""What optimum-neuron 0.4.5 gets wrong, each mended in one small place.

A fix replaces a function of optimum-neuron. It is named, says what goes wrong without it, and says
from which release on upstream does without; there it is left out. Some are needed while a model is
exported, some while it runs.
"""

from __future__ import annotations

from collections.abc import Collection

from . import fixes_export, fixes_load  # noqa: F401 - they register themselves
from .fix import FIXES, Fix
from .packages import version

__all__ = ["Fix", "mend"]


def mend(when: str, without: Collection[str] = ()) -> list[str]:
    """Apply what the installed release needs; gives the names. Twice is as good as once."""
    installed = version("optimum-neuron")
    needed = [
        fix
        for fix in FIXES.values()
        if fix.when == when and fix.name not in without and fix.applies(installed)
    ]
    for fix in needed:
        fix.patch()
    return [fix.name for fix in needed]
