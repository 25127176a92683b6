"""Which step, which component, which block is at fault."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch._dynamo
from support import SAMPLE
from torch import nn

import compilekit as ck
from compilekit.testing import tiny_pipeline

SCALE = """
from typing import Any
import compilekit as ck
class Scale(ck.Options):
    by: float = 1.0
    unless: str = ""
@ck.hookimpl
def describe():
    return ck.StepDescription(
        help="Scale the output.", options=Scale, budget=0.5,
        effects=lambda o, d: ck.effects("weights"),
    )
@ck.hookimpl
def optimize_model(model, options, context):
    import torch
    changed = {}
    for name in context.components:
        module = model.module(name)
        last = getattr(getattr(module, "decoder", module), "conv_out", None)
        last = last or list(module.modules())[-1]
        with torch.no_grad():
            for parameter in last.parameters():
                parameter.mul_(options.by if options.by != 1 else 1 + 1e-7)
        changed[name] = ["last"]
    return ck.StepResult(matched=changed, changed=changed)
"""


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return torch.tanh(self.linear(x))


class Net(nn.Module):
    """Eight layers, of which the last is scaled."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(8))
        self.last = nn.Linear(8, 8)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.last(x)


def net():
    torch.manual_seed(0)
    return Net().eval()


INPUTS = {"x": torch.linspace(-1, 1, 16).reshape(2, 8)}


@pytest.fixture
def host(write):
    return ck.load_host([write("scale.py", SCALE)])


def recipe(steps, limit=0.015, **more):
    text = ck.Recipe.from_steps(steps, **more).to_yaml()
    return ck.Recipe.parse(f"{text}verify: {{max_relative_error: {limit}}}\n")


def scales(bad):
    return ", ".join(
        f"scale{{components=model, by={1.02 if index == bad else 1.0}}}" for index in range(8)
    )


@pytest.mark.parametrize("bad", range(8))
def test_a_planted_error_in_one_of_eight_steps_is_named(host, bad):
    blame = ck.bisect(recipe(scales(bad)), net, inputs=INPUTS, host=host, progress=False)
    assert (blame.step, blame.component, blame.block) == (f"steps[{bad}].scale", "model", "")
    assert blame.together_with == ()
    assert "over max_relative_error 0.015" in blame.why
    assert blame.runs <= math.log2(8) + 8


def test_a_users_check_is_asked_in_place_of_budgets(host):
    with torch.no_grad():
        wanted = net()(**INPUTS)
    asked = []

    def check(output):
        asked.append(output)
        return bool((output - wanted).norm() < 0.01 * wanted.norm())

    loose = recipe(scales(5), limit=0.5)
    blame = ck.bisect(loose, net, check=check, inputs=INPUTS, host=host, progress=False)
    assert (blame.step, blame.why) == ("steps[5].scale", "the check fails")
    assert blame.runs == len(asked) <= math.log2(8) + 8


def test_two_steps_that_fail_only_together_are_both_named(host):
    half = "scale{components=model, by=1.01}"
    fine = "scale{components=model}"
    steps = f"{fine}, {half}, {fine}, {half}, {fine}"
    blame = ck.bisect(recipe(steps), net, inputs=INPUTS, host=host, progress=False)
    assert (blame.step, blame.together_with) == ("steps[3].scale", ("steps[1].scale",))
    assert "together with steps[1].scale" in str(blame)


def test_a_planted_error_in_one_component_is_named(write):
    planted = SCALE.replace("options.by if", 'options.by if name == "vae" and')
    host = ck.load_host([write("scale.py", planted)])
    steps = "channels_last{components=unet}, scale{components=[unet, text_encoder, vae], by=1.02}"
    # The VAE's decoder is what the sample calls, so it is what is recorded.
    blame = ck.bisect(
        recipe(steps, sample=SAMPLE),
        lambda: tiny_pipeline("sd"),
        host=host,
        progress=False,
    )
    assert (blame.step, blame.component) == ("steps[1].scale", "vae")


MARK = 3.0


def marked():
    """A net whose sixth layer has a mark that a backend can see."""
    model = net()
    with torch.no_grad():
        model.layers[5].linear.bias.fill_(MARK)
    return model


@torch._dynamo.register_backend
def spoil_marked(graph, _):
    """A compiler for torch that makes what reads the mark 2 % too large."""

    def run(*arguments):
        outputs = graph(*arguments)
        tensors = [*arguments, *graph.parameters(), *graph.buffers()]
        bad = any(isinstance(t, torch.Tensor) and bool((t == MARK).all()) for t in tensors)
        return tuple(out * 1.02 for out in outputs) if bad else outputs

    return run


@pytest.mark.parametrize("regions", ["none", "auto"])
def test_a_planted_error_in_one_block_is_named(regions):
    steps = (
        f"torch_compile{{components=model, backend=spoil_marked, regions={regions}, budget=0.5}}"
    )
    blame = ck.bisect(recipe(steps, 1e-4), marked, inputs=INPUTS, progress=False)
    assert (blame.step, blame.block) == ("steps[0].torch_compile", "model.layers.5")
    assert blame.runs <= math.log2(8) + 8


def test_where_nothing_fails_there_is_nothing_to_find(host):
    with pytest.raises(ck.UsageError, match="the recipe does not fail"):
        ck.bisect(recipe(scales(None)), net, inputs=INPUTS, host=host, progress=False)
    with pytest.raises(ck.UsageError, match="without any step"):
        ck.bisect(
            recipe(scales(0)), net, check=lambda _: False, inputs=INPUTS, host=host, progress=False
        )


@pytest.mark.full
def test_the_command_asks_another_command(tmp_path, write):
    tiny_pipeline("sd").save_pretrained(tmp_path / "model")
    path = write("serve.yaml", ck.Recipe.from_steps("qkv_fusion", sample=SAMPLE).to_yaml())
    plugin = write("scale.py", SCALE)
    judge = write(
        "judge.py",
        """
        import os, pathlib
        from PIL import Image
        (path,) = sorted(pathlib.Path(os.environ["COMPILEKIT_IMAGES"]).iterdir())
        seen = Image.open(path).tobytes()
        first = pathlib.Path(__file__).parent / "first"
        if not first.exists():
            first.write_bytes(seen)
        far = sum(abs(a - b) for a, b in zip(seen, first.read_bytes())) / len(seen)
        raise SystemExit(far > 2)
        """,
    )
    steps = "channels_last{components=unet}, scale{components=[unet, text_encoder], by=3}"
    command, check = Path(sys.executable).parent / "compilekit", f"{sys.executable} {judge}"
    options = ["--steps", steps, "--plugin", plugin, "--json"]
    done = subprocess.run(
        [command, "bisect", path, tmp_path / "model", *options, "--check", check],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["step"], found["component"]) == ("steps[1].scale", "unet")
