"""The public API of the driver package, as far as it is used: graphs, streams, counters."""

from __future__ import annotations

import sys
from typing import Any

from compilekit.workers.faults import MachineFault


def hpu() -> Any:
    """The device's module, once the driver package is imported."""
    return sys.modules["habana_frameworks.torch.hpu"]


def need_graphs() -> None:
    """Raise where there are no HPU graphs, as outside of lazy mode."""
    if not hasattr(hpu(), "HPUGraph"):
        raise MachineFault(
            "this driver package has no HPU graphs: they need lazy mode (PT_HPU_LAZY_MODE=1 before "
            "it is imported), and Intel's own torch; `mode: compile` needs neither"
        )


def compilations() -> int | None:
    """How many graphs were compiled in this process so far; None where that is not counted."""
    return _metric("graph_compilation").get("TotalNumber")


def cache_counts() -> dict[str, int]:
    """What the recipe cache says of itself."""
    return _metric("recipe_cache")


def _metric(name: str) -> dict[str, int]:
    try:
        from habana_frameworks.torch.hpu.metrics import metric_global

        return {str(key): int(value) for key, value in metric_global(name).stats()}
    except (ImportError, AttributeError, KeyError, TypeError, ValueError):
        # Another release may count otherwise, or not at all: then nothing is claimed.
        return {}
