"""How much memory `apply` and `build` take beyond the model, stage by stage, in bfloat16.

    python bench/memory.py            # both models; about half an hour where bfloat16 is slow

Each run is a process of its own. Sizes are the process's, over what it held with the model loaded.
The step compiles one block of each kind.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import models

STEPS = "torch_compile{components=model, regions=auto}"
NAMES = ("unet", "flux")
MB = 1 << 20


def subject(name: str) -> tuple[Any, dict[str, Any]]:
    """Build a model in bfloat16, and small inputs: activations are not the question."""
    import torch

    with torch.device("meta"):
        shape = models.unet(320) if name == "unet" else models.flux(64)
    module = shape.to(torch.bfloat16).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data.normal_(std=0.02, generator=generator)
    if name == "flux":
        inputs = models.flux_inputs(16)
        inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"][:, :8]
        inputs["txt_ids"] = inputs["txt_ids"][:8]
    else:
        inputs = {
            "sample": torch.randn(1, 4, 8, 8),
            "timestep": torch.tensor([500]),
            "encoder_hidden_states": torch.randn(1, 8, 768),
        }
    positions = ("img_ids", "txt_ids", "timestep", "guidance")
    half = torch.bfloat16
    cast = {
        key: value.to(half) if value.is_floating_point() and key not in positions else value
        for key, value in inputs.items()
    }
    return module.eval(), cast


def measure(verb: str, name: str) -> dict[str, Any]:
    """Run one verb here; gives bytes of the weights, and of each stage beyond them."""
    import compilekit as ck
    from compilekit.measure.memory import held_bytes

    module, inputs = subject(name)
    recipe = ck.Recipe.from_steps(STEPS)
    held = held_bytes()
    if verb == "apply":
        report = ck.apply(recipe, module, inputs=inputs, progress=False).report
    else:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "bundle")
            report = ck.build(
                recipe, module, target, inputs=inputs, cache=False, progress=False
            ).report
    stages = [(s.title, s.seconds, s.peak_bytes - held) for s in report.stages]
    return {"weights": report.parameter_bytes, "stages": stages}


def main() -> None:
    """Run each verb on each model, and print a table."""
    for name in NAMES:
        for verb in ("apply", "build"):
            command = [sys.executable, __file__, verb, name]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            result = json.loads(done.stdout.splitlines()[-1])
            weights = result["weights"]
            print(f"{verb} {name}: weights {weights / MB:.0f} MB", flush=True)
            for title, seconds, extra in result["stages"]:
                share = f"{extra / MB:8.0f} MB {extra / weights:6.2f} of the weights"
                print(f"  {title:<52}{seconds:8.1f} s {share}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(*sys.argv[1:])))
    else:
        main()
