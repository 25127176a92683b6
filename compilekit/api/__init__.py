"""The verbs of the public API. They load torch only when they are called."""

from compilekit.api.apply import Applied, apply, build, replay
from compilekit.api.bundles import bundle_of, load
from compilekit.api.machine import machine
from compilekit.api.studies import bench, bisect, explain, largest_batch, preflight
from compilekit.api.tune import tune

__all__ = [
    "Applied",
    "apply",
    "bench",
    "bisect",
    "build",
    "bundle_of",
    "explain",
    "largest_batch",
    "load",
    "machine",
    "preflight",
    "replay",
    "tune",
]
