"""The commands that make, look at and run bundles."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
from PIL import Image
from support import EXPORTER, LISTENING, SAMPLE, command, edit_manifest

from compilekit.testing import tiny_pipeline

COMMAND = [str(Path(sys.executable).with_name("compilekit"))]
RECIPE = f"""\
compilekit: 1
name: tiny
target: {{device: cpu}}
sample: {json.dumps(SAMPLE)}
steps:
  - precision: {{dtype: bfloat16, components: [vae]}}
  - eager_export: {{components: [unet], modules: [mid_block.resnets.0]}}
"""


def compilekit(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    words = [*COMMAND, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    tiny_pipeline("sd").save_pretrained(folder / "model")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def built(place: Path) -> subprocess.CompletedProcess[str]:
    return compilekit(
        "build", "recipe.yaml", "model", "-o", "made", "--plugin", EXPORTER, cwd=place
    )


def test_build_prints_a_table_and_what_was_built(built, place):
    assert (built.returncode, built.stderr.count("Traceback")) == (0, 0)
    assert "eager_export: changed 1 of 1 (compiled)" in built.stdout
    assert built.stdout.splitlines()[-1].startswith("built made: 1 part, ")
    assert "loading the bundle again" in built.stderr
    assert (place / "made" / "manifest.json").is_file()


def test_a_second_build_of_the_same_name_is_refused_at_once(built, place):
    done = command("build", "recipe.yaml", "model", "-o", "made", "--plugin", EXPORTER, cwd=place)
    assert done.returncode == 2
    assert done.stderr == (
        "compilekit: made: is there already; name another place, or remove it first\n"
    )


def test_run_draws_the_sample_and_what_is_asked_for(built, place):
    done = compilekit("run", "made", "--plugin", EXPORTER, "-o", "out", cwd=place)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "saved out/image.png")
    with Image.open(place / "out" / "image.png") as picture:
        assert picture.size == (32, 32)
    first = (place / "out" / "image.png").read_bytes()
    again = ["run", "made", "--plugin", EXPORTER, "-o", "out"]
    command(*again, cwd=place)
    assert (place / "out" / "image.png").read_bytes() == first
    for change in (["--prompt", "a dog"], ["--seed", "8"], ["--set", "num_inference_steps=3"]):
        assert command(*again, *change, cwd=place).returncode == 0
        assert (place / "out" / "image.png").read_bytes() != first, change


def test_run_refuses_what_is_not_covered_or_runs_it_eagerly(built, place):
    larger = ["run", "made", "--plugin", EXPORTER, "--set", "height=96"]
    done = command(*larger, cwd=place)
    assert done.returncode == 1
    assert (
        "compilekit: unet.mid_block.resnets.0: input_tensor is float32[2, 64, 24, 8], and"
        in done.stderr
    )
    done = command(*larger, "--on-uncovered", "eager", cwd=place)
    assert done.returncode == 0
    assert "; 2 calls ran eagerly" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "height"], "--set height: write NAME=VALUE"),
        (["--set", "hieght=96"], 'hieght: .*Did you mean "height"'),
        (["--seed", "-1"], "Invalid value for '--seed'"),
        (["--set", "seed=-1"], "seed: -1 is no seed"),
        (["--device", "cuda"], 'the bundle is for "cpu", and cannot be loaded on "cuda"'),
    ],
)
def test_run_names_what_is_wrong_with_its_arguments(arguments, message, built, place):
    import re

    done = command("run", "made", "--plugin", EXPORTER, *arguments, cwd=place)
    assert done.returncode == 2
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def test_run_looks_at_its_arguments_before_it_loads(tmp_path):
    done = command("run", tmp_path / "nothing", "--set", "height", "-o", tmp_path / "out")
    assert (done.returncode, done.stderr) == (
        2,
        'compilekit: --set height: write NAME=VALUE, "height=96" say\n',
    )


def test_inspect_shows_what_is_covered_and_loads_nothing(built, place):
    done = command("inspect", "made", cwd=place)
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[0]) == (0, "tiny: a StableDiffusionPipeline for cpu")
    assert "  unet.mid_block.resnets.0" in lines
    assert any(line.startswith("    input_tensor: float32[1..2, 64, 8, 8]") for line in lines)
    assert "run again when it is loaded: precision" in lines
    data = json.loads(command("inspect", "made", "--json", cwd=place).stdout)
    assert list(data["entries"]) == ["unet.mid_block.resnets.0"]
    code = "import sys; sys.argv=['compilekit','inspect','made']\nfrom compilekit.cli import main\n"
    code += "try: main()\nexcept SystemExit: print('torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=place, check=True
    )
    assert done.stderr == "False\n"


def test_verify_checks_files_and_replays_numbers(built, place):
    done = command("verify", "made", cwd=place)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].endswith(": as the manifest lists")
    assert done.stdout.splitlines()[1:] == [
        "the manifest: as it was written",
        "not signed: an accident would be noticed, a forgery would not",
    ]
    done = command("verify", "made", "--replay", "--plugin", EXPORTER, cwd=place)
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.splitlines()[4:]]
    assert {row[0]: row[-1] for row in rows} == {"unet": "ok", "vae.decode": "ok"}


def test_verify_notices_an_altered_file_and_a_worse_number(built, place, tmp_path):
    import shutil

    spoilt = Path(shutil.copytree(place / "made", tmp_path / "made"))
    weights = spoilt / "constants" / "unet.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 0x7F
    weights.write_bytes(content)
    done = command("verify", spoilt)
    assert done.returncode == 1
    assert "unet.safetensors: was altered" in done.stderr
    shutil.copy(place / "made" / "constants" / "unet.safetensors", weights)
    edit_manifest(spoilt, lambda data: [row.update(error=0.0) for row in data["replay"]])
    done = command("verify", spoilt, "--replay", "--plugin", EXPORTER)
    assert done.returncode == 1
    assert "vae.decode: the error is larger than it was" in done.stderr


def test_a_bundle_for_another_machine_ends_with_three(built, place, tmp_path):
    import shutil

    moved = Path(shutil.copytree(place / "made", tmp_path / "made"))
    edit_manifest(moved, lambda data: data["fingerprint"].update(torch="1.2.3"))
    done = command("run", moved, "--plugin", EXPORTER, "-o", tmp_path / "out")
    assert done.returncode == 3
    assert "fatal: torch: built with 1.2.3, here " in done.stderr


def test_a_build_as_json_is_json_alone(place, tmp_path):
    done = command(
        "build", "recipe.yaml", "model", "-o", tmp_path / "made", "--plugin", EXPORTER, "--json",
        cwd=place,
    )  # fmt: skip
    data = json.loads(done.stdout)
    assert data["path"] == str(tmp_path / "made")
    assert data["bytes"] > data["weight_bytes"] > 0


def test_the_published_schema_accepts_a_real_manifest(built, place):
    schema = json.loads(command("schema", "--of", "manifest").stdout)
    manifest = json.loads((place / "made" / "manifest.json").read_text())
    jsonschema.validate(manifest, schema)
    manifest["surprise"] = 1
    with pytest.raises(jsonschema.ValidationError, match="surprise"):
        jsonschema.validate(manifest, schema)


@pytest.mark.parametrize(
    ("sent", "code", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        pytest.param(signal.SIGTERM, 143, "terminated", marks=pytest.mark.full),
    ],
)
def test_an_interrupted_build_leaves_nothing_and_shows_no_traceback(
    place, tmp_path, sent, code, word
):
    process = subprocess.Popen(
        [
            *(*LISTENING, *COMMAND, "build", "recipe.yaml", "model"),
            *("-o", tmp_path / "made", "--plugin", EXPORTER),
        ],
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".made.partial-*/parts/*/*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(sent)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == code
    assert shown.splitlines()[-1] == f"compilekit: {word}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_said_so(place, tmp_path):
    tmp_path.chmod(0o500)
    done = command(
        "build", "recipe.yaml", "model", "-o", tmp_path / "made", "--plugin", EXPORTER, cwd=place
    )
    assert done.returncode == 2
    assert "cannot write there" in done.stderr
