"""The worker: builds on a device, in a process of its own, which no earlier import has spoilt.

For optimum-habana it imports of compilekit only `compilekit.workers.faults`, and stays within
Python 3.10. Faults that it knows are raised as one of the classes there, which say whose fault it
is.
"""

from __future__ import annotations

from typing import Any


def run(request: dict[str, Any], say: Any) -> dict[str, Any]:
    """Answer one request: a check, or a build."""
    from .job import answer

    return answer(request, say)
