"""`compilekit batch`: what it prints, an interrupt, mistakes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import LISTENING, command

SLEEPY = """
import os, time
from pathlib import Path
import compilekit as ck
@ck.hookimpl
def describe():
    return ck.StepDescription(
        help="Sleep.", options=ck.Options, effects=lambda o, d: ck.effects("runtime"),
    )
@ck.hookimpl
def optimize_model(model):
    entry = model.entry_point("model")
    before = entry.function
    def sleepy(sample, *args, **kwargs):
        if len(sample) >= 2:
            Path(__file__).with_name("pid").write_text(str(os.getpid()))
            time.sleep(600)
        return before(sample, *args, **kwargs)
    entry.replace(sleepy)
    return ck.StepResult(matched={"model": ["it"]}, changed={"model": ["it"]})
"""


@pytest.fixture
def saved(tmp_path):
    """The folder of a small module, and a recipe for it."""
    from diffusers import UNet2DModel

    UNet2DModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=2,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    ).save_pretrained(tmp_path / "model")  # fmt: skip
    inputs = "{sample: {shape: [1, 3, 8, 8]}, timestep: {shape: [1], dtype: int64}}"
    (tmp_path / "unet.yaml").write_text(
        "compilekit: 1\ntarget: {device: cpu}\n"
        f"model: {{pipeline: UNet2DModel, inputs: {inputs}}}\nsteps: []\n"
    )
    return tmp_path


BATCH = [str(Path(sys.executable).with_name("compilekit")), "batch", "unet.yaml", "model"]


@pytest.mark.full
def test_the_command_prints_json_and_the_progress_of_each_trial(saved):
    done = command("batch", "unet.yaml", "model", "--limit", "2", "--json", cwd=saved)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["largest"], found["limit"], found["unit"]) == (2, 2, "samples")
    assert [row["batch"] for row in found["trials"]] == [1, 2]
    assert all(row["fits"] and row["rate"] > 0 for row in found["trials"])
    assert re.fullmatch(
        r"(batch \d  [\d.]+ s\n  fits: [\d.e-]+ s a run, [\d.e+]+ samples/s, \d+ MB\n){2}",
        done.stderr,
    )


def test_an_interrupt_kills_the_trial_and_shows_what_was_found(saved, write):
    write("sleepy.py", SLEEPY)
    words = [*LISTENING, *BATCH, "--steps", "sleepy{components=model}", "--plugin", "sleepy.py"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, cwd=saved, stdout=pipe, stderr=pipe, text=True) as running:
        while not (pid := saved / "pid").exists() or not pid.read_text():
            assert running.poll() is None
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        said, errors = running.communicate(timeout=30)
    assert running.returncode == 130
    assert errors.endswith("compilekit: interrupted\n")
    assert said.splitlines()[0].startswith("batch  seconds a run  images/s")
    assert said.splitlines()[-1].startswith("largest batch: 1; fastest: 1, ")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["unet.yaml", "model", "--steps", "precison"], 'Did you mean "precision"?'),
        pytest.param(
            ["unet.yaml", "nosuch"],
            "compilekit: nosuch cannot be loaded: ",
            marks=pytest.mark.full,
        ),
        (["nosuch.yaml", "model"], "compilekit: nosuch.yaml: no such file"),
    ],
)
def test_mistakes_are_told_before_a_trial_is_over(saved, arguments, said):
    done = command("batch", *arguments, cwd=saved)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
