"""What a failed run leaves, and its failing step run again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import EXPORTER, SAMPLE, Twice

import compilekit as ck
from compilekit.testing import tiny_pipeline

SPOIL = """
import compilekit as ck
from pathlib import Path
LOG = Path(__file__).parent / "log"
@ck.hookimpl
def describe():
    return ck.StepDescription(
        help="Make it wrong.", options=ck.Options, effects=lambda o, d: ck.effects("weights")
    )
@ck.hookimpl
def optimize_model(model, context):
    import torch
    (name,) = context.components
    with LOG.open("a") as log:
        log.write("spoil ")
    with torch.no_grad():
        for parameter in model.module(name).parameters():
            parameter.mul_(1.5)
    return ck.StepResult(matched={name: ["all"]}, changed={name: ["all"]})
"""
STEPS = (
    "channels_last{components=unet}, spoil{components=unet}, "
    "precision{components=vae, dtype=bfloat16}"
)


@pytest.fixture
def left(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPILEKIT_REPRO", str(tmp_path / "repro"))
    return tmp_path / "repro"


@pytest.fixture
def host(write):
    return ck.load_host([write("spoil.py", SPOIL), EXPORTER])


def test_a_failed_apply_leaves_what_it_takes_to_replay_the_step_in_a_new_process(left, host):
    recipe = ck.Recipe.from_steps(STEPS, sample=SAMPLE)
    with pytest.raises(ck.VerificationError, match=r"spoil.*moved unet") as caught:
        ck.apply(recipe, tiny_pipeline("sd"), host=host, progress=False)
    (folder,) = left.iterdir()
    assert caught.value.repro == folder
    assert folder.name.startswith("steps-spoil-")
    names = {path.name for path in folder.iterdir()}
    files = {"recipe.yaml", "state.json", "traceback.txt", "environment.json", "report.json"}
    assert names == files | {"pipeline", "plugins"}
    assert not [path for path in folder.rglob("*") if path.suffix in (".safetensors", ".bin")]
    assert "VerificationError" in (folder / "traceback.txt").read_text()
    state = json.loads((folder / "state.json").read_text())
    assert state["failed"] == {"index": 1, "step": "spoil"}
    done = subprocess.run(
        [Path(sys.executable).parent / "compilekit", "replay", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "steps[1].spoil: plugin spoil" in done.stderr
    assert "moved unet" in done.stderr
    # The steps before it ran unmeasured, and the one after it did not.
    assert "channels_last" in done.stderr
    assert "[3/3] precision" not in done.stderr


def test_a_step_that_no_longer_fails_says_so(left, host):
    recipe = ck.Recipe.from_steps("spoil{components=unet}", sample=SAMPLE)
    with pytest.raises(ck.VerificationError) as caught:
        ck.apply(recipe, tiny_pipeline("sd"), host=host, progress=False)
    plugin = caught.value.repro / "plugins" / "spoil.py"
    plugin.write_text(plugin.read_text().replace("mul_(1.5)", "mul_(1.00001)"))
    assert ck.replay(caught.value.repro, progress=False) == "steps[0].spoil does not fail here"


def test_a_failed_build_is_replayed_on_the_users_own_module(left, write):
    hang = write(
        "fragile.py",
        EXPORTER.read_text().replace(
            "    import os\n    from pathlib", '    raise OSError("no")\n    from pathlib'
        ),
    )
    host = ck.load_host([hang])
    recipe = ck.Recipe.from_steps("fragile{components=model}")
    inputs = {"x": torch.ones(2, 8)}
    target = left.parent / "bundle"
    with pytest.raises(ck.StepError, match="no") as caught:
        ck.build(recipe, Twice().eval(), target, inputs=inputs, host=host, progress=False)
    with pytest.raises(ck.UsageError, match=r"pass it, `compilekit\.replay\(repro, model\)`"):
        ck.replay(caught.value.repro, progress=False)
    with pytest.raises(ck.StepError, match=r"steps\[0\]\.fragile"):
        ck.replay(caught.value.repro, Twice().eval(), progress=False)
    assert not target.exists()


def test_where_nothing_can_be_written_the_error_is_what_it_was(host, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COMPILEKIT_REPRO", str(tmp_path / "file"))
    recipe = ck.Recipe.from_steps("spoil{components=unet}", sample=SAMPLE)
    with pytest.raises(ck.VerificationError) as caught:
        ck.apply(recipe, tiny_pipeline("sd"), host=host, progress=False)
    assert caught.value.repro is None
    if sys.version_info >= (3, 11):
        assert "no reproducer was left" in caught.value.__notes__[0]


@pytest.mark.parametrize("text", ["", "[]", "{}", "\udcff"])
def test_what_is_no_reproducer_is_refused(tmp_path, text):
    (tmp_path / "state.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ck.UsageError, match=r"reproducer|is not what a failed run leaves"):
        ck.replay(tmp_path, progress=False)
