"""Bundles: what one holds, how it is written, checked, and turned into a ready pipeline.

`manifest` and `files` are light; everything else loads torch, and is imported when it is needed.
"""

from __future__ import annotations

from compilekit.bundle.manifest import Manifest

__all__ = ["Manifest"]
