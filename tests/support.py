"""What several tests share, and no fixture can be: constants, and a call of a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

EXPORTER = Path(__file__).parent / "plugins" / "eager_export.py"
"""An exporter of the tests' own: no compiler runs."""

SAMPLE = {"prompt": "a cat", "height": 64, "width": 64, "num_inference_steps": 2, "seed": 7}


def draw(pipeline: Any, **changes: Any) -> Any:
    """The sample's picture, as an array."""
    arguments = {key: value for key, value in SAMPLE.items() if key != "seed"}
    arguments |= {"generator": torch.Generator().manual_seed(7), "output_type": "np", **changes}
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(**arguments).images
