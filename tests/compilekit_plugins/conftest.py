"""Adapters that several files of tests load."""

from __future__ import annotations

import pytest
from adapters import LAYERS, adapter


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Adapters, by name."""
    root = tmp_path_factory.mktemp("adapters")
    both = ("unet", "text_encoder")
    return {
        "sd": adapter(root / "sd", parts=both),
        "flux": adapter(root / "flux", "flux", ("transformer",)),
        "sd3": adapter(root / "sd3", "sd3", ("transformer",)),
        "first": adapter(root / "first", seed=2),
        "wide": adapter(root / "wide", rank=8, alpha=2, seed=3),
        "few": adapter(root / "few", rank=2, alpha=4, seed=4, layers=["attn1.to_q"]),
        "many": adapter(root / "many", seed=5, layers=[*LAYERS["unet"], "proj_in"]),
        "large": adapter(root / "large", rank=16, seed=6),
        "text": adapter(root / "text", parts=("text_encoder",), seed=7),
        "flux-wide": adapter(root / "flux-wide", "flux", ("transformer",), rank=8, seed=8),
    }
