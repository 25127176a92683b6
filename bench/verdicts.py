"""How often the verdict is right while another program uses a core.

    python bench/verdicts.py

Three steps are planted: one that sleeps, one that changes nothing, and one that leaves out half of
the work. Each is applied 20 times beside other steps; the verdict must name the one that sleeps.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

import compilekit as ck
from compilekit.report.verdict import kind

TIMES = 20
PLUGIN = """
import time
import compilekit as ck

class Nothing(ck.Options): pass

@ck.hookimpl
def describe():
    return ck.StepDescription(
        help="Planted.", options=Nothing, components="optional",
        effects=lambda options, device: ck.effects("runtime"),
    )

@ck.hookimpl
def optimize_model(model, context):
    net = model.module("model")
    {body}
    return ck.StepResult(matched={{"model": ["net"]}}, changed={{"model": ["net"]}})
"""
STEPS = {"slow": "net.pause = 0.03", "neutral": "pass", "fast": "net.used = 8"}
EXPECTED = {"slow": "slower", "neutral": "same", "fast": "faster"}


class Net(nn.Module):
    """Some 20 ms of matrix products; the second half of the layers changes next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(512, 512) for _ in range(16))
        self.pause, self.used = 0.0, 16
        for layer in list(self.layers)[8:]:
            nn.init.eye_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply, and sleep as long as a step says."""
        import time

        for layer in self.layers[: self.used]:
            x = layer(x)
        time.sleep(self.pause)
        return x


def spin() -> None:
    """Use one core until the end."""
    matrix = torch.randn(512, 512)
    torch.set_num_threads(1)
    while True:
        matrix @ matrix


def verdict(host: ck.Host, steps: str) -> Any:
    """The verdict on a fresh net."""
    recipe = ck.Recipe.from_steps(steps)
    inputs = {"x": torch.randn(256, 512)}
    return ck.apply(recipe, Net().eval(), inputs=inputs, host=host, progress=False).report.verdict


def main() -> None:
    """Apply each planted step many times, with a busy process beside it."""
    with tempfile.TemporaryDirectory() as folder:
        for name, body in STEPS.items():
            Path(folder, f"{name}.py").write_text(PLUGIN.format(body=body))
        host = ck.load_host(plugins=sorted(Path(folder).glob("*.py")))
        other = multiprocessing.Process(target=spin, daemon=True)
        other.start()
        for name, wanted in EXPECTED.items():
            found = [
                verdict(host, f"neutral, {name}" if name == "slow" else name) for _ in range(TIMES)
            ]
            right = [
                v
                for v in found
                if kind(v) == wanted and v.blame == (name if name == "slow" else "")
            ]
            ratios = ", ".join(f"{v.speedup:.2f} ({v.low:.2f}-{v.high:.2f})" for v in found)
            print(f"{name}: right in {len(right)} of {TIMES}: {ratios}", flush=True)
        other.kill()


if __name__ == "__main__":
    main()
