"""Build several kinds of models, each from its folder, in a process of its own.

Run as a script, with a folder; prints for each kind what was compiled and whether all was copied.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import pytest
import torch
from support import EXPORTER, RESNET, SAMPLE, Twice, take_few_times

import compilekit as ck

take_few_times(pytest.MonkeyPatch())

STEPS = {
    "sd": f"{RESNET}, eager_export{{components=text_encoder}}",
    "sdxl": RESNET,
    "flux": "eager_export{components=transformer, modules=[transformer_blocks.0]}",
}


def build(steps: str, model: Any, folder: Path, **more: Any) -> dict[str, Any]:
    """Build into a new folder."""
    host = ck.load_host([EXPORTER])
    log = folder / f"log-{os.getpid()}"
    os.environ["EXPORT_LOG"] = str(log)
    log.write_text("")
    recipe = ck.Recipe.from_steps(steps, sample=None if more else SAMPLE)
    target = folder / f"bundle-{os.getpid()}-{len(list(folder.iterdir()))}"
    built = ck.build(recipe, model, target, host=host, progress=False, **more)
    return {
        "compiled": log.read_text().split(),
        "is_copy": built.before is None,
        "reused": built.reused,
    }


def main(folder: Path) -> None:
    """Build every kind."""
    from packed.layers import Scaled

    results = {kind: build(steps, str(folder / kind), folder) for kind, steps in STEPS.items()}
    inputs = {"inputs": {"x": torch.linspace(-1, 1, 16).reshape(2, 8)}}
    for kind, net, steps in (
        ("module", Twice, "eager_export{components=model}"),
        ("package", Scaled, "packed{components=model}"),
    ):
        torch.manual_seed(0)
        results[kind] = build(steps, net().eval(), folder, **inputs)
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
