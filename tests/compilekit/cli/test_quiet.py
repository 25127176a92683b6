"""Commands print their own lines; what libraries and plugins write is kept until it matters."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
from compat import make as small
from support import EXPORTER, LISTENING, SAMPLE, command, edit_manifest

from compilekit.testing import tiny_pipeline

COMMAND = [str(Path(sys.executable).with_name("compilekit"))]
NOISE = """
import ctypes, logging, os, subprocess, sys, warnings
from tqdm import tqdm
import compilekit as ck

def noise():
    print("printed")
    sys.__stdout__.write("kept back\\n")
    os.write(1, b"written to 1\\n")
    os.write(2, b"written to 2\\n")
    warnings.warn("a warning of it")
    logging.getLogger("other").warning("a record of it")
    subprocess.run(["echo", "a child"])
    ctypes.CDLL(None).printf(b"from C\\n")
    for _ in tqdm(range(3), "a bar"):
        pass

class Noisy(ck.Options):
    pass

@ck.hookimpl
def describe():
    return ck.StepDescription(help="", options=Noisy, effects=lambda o, d: ck.effects("weights"))

@ck.hookimpl
def optimize_model(model):
    noise()
    ENDING
"""
LINES = (
    "printed",
    "kept back",
    "written to 1",
    "written to 2",
    "a warning of it",
    "a record of it",
    "a child",
    "from C",
    "a bar: 100%",
)
TITLE = "other libraries and plugins wrote:\n"
RECIPE = f"""\
compilekit: 1
name: tiny
target: {{device: cpu}}
sample: {json.dumps(SAMPLE)}
steps:
  - channels_last: {{components: [unet, vae]}}
"""
PLAN = "tiny: 1 step on cpu\n  0  channels_last  unet, vae  changes layout\n"


def compilekit(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    return ran([*COMMAND, *map(str, words)], **variables)


def ran(words: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, **variables}
    return subprocess.run(words, capture_output=True, text=True, check=False, env=given)


def script(
    code: str, *, first: str = "", verbose: bool = False, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run code while what it writes is kept."""
    text = f"""{first}
import os, subprocess, sys, warnings
from compilekit.base.streams import ERR, behind, captured
with captured(verbose={verbose}, is_failure=lambda error: True):
    print("noise")
{textwrap.indent(textwrap.dedent(code).strip(), "    ")}
"""
    return ran([sys.executable, "-c", text], **variables)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline("sd").save_pretrained(folder)
    return folder


@pytest.fixture
def recipe(write) -> Path:
    return write("tiny.yaml", RECIPE)


@pytest.fixture
def noisy(write):
    """A plugin that makes noise, and ends so, when it is imported or when its step runs."""

    def _noisy(*, imported: str = "", step: str = "") -> list[object]:
        text = NOISE.replace("ENDING", step)
        return ["--plugin", write("noisy.py", f"{text}\n{imported}\n")]

    return _noisy


def test_what_others_write_is_not_shown(recipe, noisy):
    done = compilekit("plan", recipe, *noisy(imported="noise()"))
    assert (done.returncode, done.stdout, done.stderr) == (0, PLAN, "")


@pytest.mark.parametrize(
    ("before", "after", "variables"),
    [
        (["--verbose"], [], {}),
        ([], ["--verbose"], {}),
        ([], [], {"COMPILEKIT_VERBOSE": "1"}),
    ],
)
def test_verbose_shows_it_on_standard_error(before, after, variables, recipe, noisy):
    done = compilekit(
        *before, "plan", recipe, *noisy(imported="noise()"), "--json", *after, **variables
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["name"] == "tiny"
    assert all(line in done.stderr for line in LINES)


def test_after_a_failure_it_comes_before_the_message(write, noisy, tmp_path):
    small.pipeline().save_pretrained(tmp_path / "model")
    text = RECIPE.replace(json.dumps(SAMPLE), json.dumps(small.SAMPLE))
    recipe = write(
        "tiny.yaml",
        text.replace("channels_last: {components: [unet, vae]}", "noisy: {components: unet}"),
    )
    words = ["apply", recipe, tmp_path / "model", "-o", tmp_path / "out", "--json"]
    done = compilekit(*words, *noisy(step="raise ValueError('boom')"))
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["recipe"] == "tiny"
    own, shown = done.stderr.split(TITLE)
    assert "recording the sample" in own
    assert all(f"  {line}" in shown for line in LINES if line != "a warning of it")
    assert "\nwarning: a warning of it\n" in own
    assert "a warning of it" not in shown
    # Of a bar that was drawn again and again, the last state.
    assert "a bar:   0%" not in shown
    assert re.search(r"\ncompilekit: steps\[0\]\.noisy: .* ValueError: boom\n$", shown)


def test_a_mistake_in_the_recipe_is_told_alone(recipe, noisy):
    done = compilekit("plan", recipe, "--steps", "nosy", *noisy(imported="noise()"))
    assert done.returncode == 2
    assert re.fullmatch(r"compilekit: .*Did you mean \"noisy\"\?\n", done.stderr)


@pytest.mark.parametrize(
    ("sent", "code", "shown"),
    [
        ("SIGINT", 130, "compilekit: interrupted\n"),
        ("SIGTERM", 143, f"{TITLE}  hello\ncompilekit: terminated\n"),
    ],
)
def test_an_interrupt_is_no_failure_and_a_termination_is(sent, code, shown, recipe, noisy):
    ending = f"print('hello'); import signal; os.kill(os.getpid(), signal.{sent})"
    words = ["plan", str(recipe), *map(str, noisy(imported=ending))]
    done = ran([*LISTENING, *COMMAND, *words])
    assert (done.returncode, done.stdout, done.stderr) == (code, "", shown)


def test_a_traceback_comes_after_it():
    done = script("1 / 0")
    assert done.stderr.startswith(f"{TITLE}  noise\nTraceback")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize(
    ("ending", "code"),
    [("os.abort()", -signal.SIGABRT), ("os.kill(os.getpid(), 9)", -9), ("os._exit(3)", 3)],
)
def test_a_process_that_dies_without_a_word_leaves_what_was_written(ending, code):
    done = script(f"os.write(2, b'out of luck\\n'); {ending}")
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"{TITLE}noise\nout of luck\n")


@pytest.mark.parametrize("ending", ["pass", "1 / 0", "os.abort()"])
def test_no_file_is_left(ending, tmp_path):
    done = script(
        f"print(os.listdir({str(tmp_path)!r}), file=sys.__stderr__); {ending}", TMPDIR=str(tmp_path)
    )
    assert list(tmp_path.iterdir()) == []
    assert ("['compilekit-" in done.stderr) == (ending != "pass")


def test_without_a_place_to_keep_it_it_is_shown():
    first = "def full(**_): raise OSError\nimport tempfile; tempfile.mkstemp = full"
    done = script("pass", first=first)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "noise\n")


def test_a_program_of_the_users_own_is_heard():
    done = script("subprocess.run(['echo', 'mine'], stdout=behind(ERR))")
    assert (done.stdout, done.stderr) == ("", "mine\n")


@pytest.mark.parametrize("verbose", [False, True])
def test_a_worker_is_heard_with_verbose(verbose, tmp_path, write):
    write("__init__.py", "def run(request, say):\n    print('from afar')\n    return {}\n")
    code = f"import compilekit as ck; here = {str(tmp_path)!r}\n"
    code += "ck.run_worker(here, {}, python=sys.executable, folder=here)"
    done = script(code, verbose=verbose)
    assert (done.returncode, "from afar\n" in done.stderr) == (0, verbose)


def test_warnings_of_compilekit_and_of_plugins_are_lines_of_the_command(write):
    plugin = write("loud.py", "import warnings\n\ndef speak():\n    warnings.warn('too hot')\n")
    code = f"""
        from compilekit.plugin.discovery import file_plugin

        def warn(module, text):
            exec("import warnings; warnings.warn(text)", {{"__name__": module, "text": text}})
        warn("compilekit.load.parts", "built elsewhere")
        file_plugin(__import__("pathlib").Path({str(plugin)!r})).module.speak()
        warn("torch.utils", "old")
    """
    assert script(code).stderr == "warning: built elsewhere\nwarning: too hot\n"
    assert "UserWarning: old" in script(code, verbose=True).stderr


def test_a_bundle_that_differs_is_told_in_one_line(bundle, tmp_path):
    edit_manifest(bundle, lambda data: data["fingerprint"].update(diffusers="0.1"))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        done = command("run", bundle, "--plugin", EXPORTER, "-o", tmp_path)
    assert done.returncode == 0
    assert re.fullmatch(
        rf"warning: {re.escape(str(bundle))}: diffusers: built with 0\.1, here .*\n"
        r"loading \S+  [\d.]+ s\n",
        done.stderr,
    )


def test_a_terminal_shows_progress_while_the_rest_is_kept():
    import pty

    code = """
import os, time
from compilekit.base.progress import Progress
from compilekit.base.streams import captured
with captured(verbose=False, is_failure=lambda error: True), Progress().stage("loading"):
    print("noise")
    os.write(2, b"noise")
    time.sleep(0.5)
"""
    control, terminal = pty.openpty()
    variables = {**os.environ, "TERM": "xterm"}
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdout=terminal, stderr=terminal, env=variables) as running:
        os.close(terminal)
        shown = b""
        while chunk := read(control):
            shown += chunk
    assert running.returncode == 0
    assert shown.count(b"loading") > 2  # drawn while it runs, and a line at the end
    assert b"noise" not in shown


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1024)
    except OSError:  # nobody has it open any more
        return b""


def test_a_closed_output_is_no_error():
    done = ran(["/bin/sh", "-c", f"{COMMAND[0]} recipes >&-"])
    assert (done.returncode, done.stderr) == (0, "")


def test_apply_prints_its_own_lines_and_no_others(recipe, model, tmp_path):
    done = compilekit("apply", recipe, model, "-o", tmp_path / "out")
    assert done.returncode == 0
    assert re.fullmatch(
        r"loading the model  [\d.]+ s\n"
        r"recording the sample  [\d.]+ s\n"
        r"float32 reference, and times before the first step  [\d.]+ s\n"
        r"a copy of the model as loaded, for its times  [\d.]+ s\n"
        r"\[1/1\] channels_last: unet, vae  [\d.]+ s\n"
        r"running the sample again  [\d.]+ s\n"
        r"final check  [\d.]+ s\n"
        r"speed, in turn with the model as loaded  [\d.]+ s\n"
        r"(compilekit: the result is .* SLOWER .*\n)?",
        done.stderr,
    )
    verdict, first, *_, last = done.stdout.splitlines()
    assert re.match(r"no measurable difference|[\d.]+x (faster|SLOWER)", verdict)
    assert first == "tiny on cpu; errors are relative L2 against float32"
    assert last.startswith(f"saved in {tmp_path / 'out'}: before.png, ")
