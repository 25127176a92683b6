"""The public API of the driver package, as far as it is used: graphs, streams, counters."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

from compilekit.workers.faults import MachineFault

PACKAGE = "habana_frameworks.torch"


def hpu() -> Any:
    """The device's module, once the driver package is imported."""
    return sys.modules[f"{PACKAGE}.hpu"]


def need_graphs() -> None:
    """Raise where there are no HPU graphs, as outside of lazy mode."""
    if not hasattr(hpu(), "HPUGraph"):
        raise MachineFault(
            "this driver package has no HPU graphs: they need lazy mode (PT_HPU_LAZY_MODE=1 before "
            "it is imported), and Intel's own torch; `mode: compile` needs neither"
        )


def flush() -> None:
    """Let what lazy mode has gathered be compiled and run now; other modes gather nothing."""
    importlib.import_module(f"{PACKAGE}.core").mark_step(sync=True)


def counted_captures() -> Callable[[], int | None]:
    """Count the captures of this process from now on; None where they cannot be seen.

    Of pipelines that capture by themselves nothing else shows it.
    """
    kind = hpu().HPUGraph
    if "compilekit_captures" not in vars(kind):
        plain = kind.capture_end

        @functools.wraps(plain)
        def capture_end(self: Any, *args: Any, **kwargs: Any) -> Any:
            kind.compilekit_captures += 1
            return plain(self, *args, **kwargs)

        try:
            kind.compilekit_captures, kind.capture_end = 0, capture_end
        except (AttributeError, TypeError):
            return lambda: None
    return lambda: int(kind.compilekit_captures)


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
