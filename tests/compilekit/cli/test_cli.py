"""The command line, as a user meets it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from support import LISTENING, command

from compilekit.recipe import library
from compilekit.testing import tiny_pipeline

COMMAND = [str(Path(sys.executable).with_name("compilekit"))]


def compilekit(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    words = [*COMMAND, *map(str, arguments)]
    # Without COLUMNS, which the library `readline` puts into the environment when it is imported.
    environment = {name: text for name, text in os.environ.items() if name != "COLUMNS"}
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline("sd").save_pretrained(folder)
    return folder


RECIPE = """\
compilekit: 1
name: tiny
target: {device: cpu}
sample: {prompt: [a cat, a dog], height: 64, width: 64, num_inference_steps: 2}
steps:
  - channels_last: {components: [unet, vae]}
"""


def test_help_says_what_it_is_and_lists_the_commands():
    done = compilekit("--help")
    assert done.returncode == 0
    for each in ("plan", "apply", "plugins", "recipes", "schema", "doctor"):
        assert each in done.stdout


def test_a_plan_is_printed(write):
    done = compilekit("plan", write("tiny.yaml", RECIPE))
    expected = "tiny: 1 step on cpu\n  0  channels_last  unet, vae  changes layout\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


def test_a_plan_as_json_has_every_default_and_a_digest(write):
    done = compilekit("plan", write("tiny.yaml", RECIPE), "--json")
    plan = json.loads(done.stdout)
    assert plan["steps"][0]["channels_last"]["budget"] == 1e-4
    assert len(plan["digest"]) == 64


def test_a_typing_error_is_one_line_and_exit_code_2(write):
    path = write("tiny.yaml", RECIPE.replace("channels_last", "chanels_last"))
    done = compilekit("plan", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"compilekit: {path}:6:5: steps[0].chanels_last: no plugin brings a step "
        '"chanels_last". Did you mean "channels_last"?\n'
    )


def test_a_recipe_that_does_not_exist_is_one_line():
    done = compilekit("plan", "sdxl/cudda")
    assert done.returncode == 2
    assert 'Did you mean "sdxl/cuda"?' in done.stderr
    assert "Traceback" not in done.stderr


def test_recipes_are_listed_by_family_in_lines_that_fit():
    groups = compilekit("recipes").stdout.split("\n\n")
    rows = json.loads(compilekit("recipes", "--json").stdout)
    listed = [line.split()[:2] for group in groups for line in group.splitlines()[1:]]
    assert listed == [[row["name"], row["target"]] for row in rows]
    families = [{line.split("/")[0] for line in group.splitlines()[1:]} for group in groups]
    assert families == [{f"  {family}"} for family in library.families()]
    assert [group.splitlines()[0] for group in groups] == list(library.families().values())
    assert max(len(line) for group in groups for line in group.splitlines()) <= 100


def test_plugins_lists_a_file_given_by_hand(write):
    path = write(
        "nosy.py",
        "import compilekit as ck\n@ck.hookimpl(wrapper=True)\ndef optimize_model(): yield\n",
    )
    done = compilekit("plugins", "--plugin", path, "--json")
    kinds = {row["name"]: row["kind"] for row in json.loads(done.stdout)}
    assert kinds["nosy"] == "observer"
    assert kinds["torch_compile"] == "step"


def test_the_schema_knows_the_options_of_every_step():
    schema = json.loads(compilekit("schema").stdout)
    assert "fullgraph" in json.dumps(schema)


def test_the_doctor_finds_this_machine_fit():
    done = compilekit("doctor", "--json")
    assert done.returncode == 0
    states = {row["what"]: row["state"] for row in json.loads(done.stdout)}
    assert states["torch"] == "ok"


def test_apply_saves_pictures_and_a_report(write, model, tmp_path):
    out = tmp_path / "out"
    done = compilekit("apply", write("tiny.yaml", RECIPE), model, "-o", out)
    assert done.returncode == 0, done.stderr
    assert "channels_last: changed" in done.stdout
    names = {path.name for path in out.iterdir()}
    assert names == {"before.png", "after.png", "comparison.png", "report.json"}
    with Image.open(out / "before.png") as picture:
        assert picture.size[0] > 64
    report = json.loads((out / "report.json").read_text())
    assert report["end_to_end"]["psnr"] > 60
    # A line for each stage, since standard error is no terminal here.
    assert "[1/1] channels_last: unet, vae" in done.stderr


def test_a_broken_budget_is_exit_code_1_and_the_report_is_saved(write, model, tmp_path):
    text = RECIPE.replace("channels_last: {", "precision: {dtype: bfloat16, budget: 0.00001, ")
    done = command("apply", write("tiny.yaml", text), model, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "moved" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out" / "report.json").is_file()


def test_a_device_that_is_not_here_is_exit_code_3(write, model, tmp_path):
    import torch

    if torch.xpu.is_available():
        pytest.skip("this machine has that device")
    path = write("tiny.yaml", RECIPE.replace("cpu", "xpu"))
    done = command("apply", path, model, "-o", tmp_path / "out")
    assert done.returncode == 3
    assert "sees no such device" in done.stderr


def test_an_output_that_cannot_be_written_is_found_before_anything_runs(write, model, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = command("apply", write("tiny.yaml", RECIPE), model, "-o", blocked / "out")
    assert done.returncode == 2
    assert "cannot write there" in done.stderr
    assert "recording" not in done.stderr


def test_an_interrupted_run_ends_with_one_line(write, model, tmp_path):
    text = RECIPE.replace("num_inference_steps: 2", "num_inference_steps: 900")
    recipe = str(write("tiny.yaml", text))
    words = [*LISTENING, *COMMAND, "apply", recipe, str(model), "-o", "out"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stderr=pipe, stdout=pipe, text=True, cwd=tmp_path) as running:
        assert running.stderr is not None
        while "loading the model" not in running.stderr.readline():
            assert running.poll() is None
        time.sleep(0.5)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert errors.endswith("compilekit: interrupted\n")
    assert "Traceback" not in errors


def test_the_reader_of_a_pipe_may_go_away():
    done = subprocess.run(
        f"{COMMAND[0]} schema | head -c 10", shell=True, capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert done.stderr == ""
