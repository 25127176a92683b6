"""What tests of compilekit and of its plugins share: tiny pipelines of real diffusers classes.

They are built from configurations, with seeded random weights, so a test needs neither a
network nor a cache, and importing this module loads no torch.
"""

from __future__ import annotations

from compilekit.testing.tiny import TINY_CLASSES, TINY_KINDS, tiny_pipeline, tiny_text_encoder

__all__ = ["TINY_CLASSES", "TINY_KINDS", "tiny_pipeline", "tiny_text_encoder"]
