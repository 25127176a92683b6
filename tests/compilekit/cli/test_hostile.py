"""Strange names, closed outputs, signals: the command line says so in one message."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import LISTENING, command

import compilekit as ck

COMMAND = str(Path(sys.executable).with_name("compilekit"))
RECIPE = (
    "compilekit: 1\nname: {name}\ntarget: {{device: cpu}}\n"
    "steps:\n  - {step}: {{components: unet}}\n"
)


def ran(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, **variables}
    return subprocess.run(words, capture_output=True, text=True, check=False, env=given)


def shell(text: str) -> subprocess.CompletedProcess[str]:
    return ran("/bin/sh", "-c", text)


@pytest.mark.parametrize("days", ["-3", "0", "nan", "inf"])
def test_a_number_of_days_that_is_none_is_refused(days):
    done = command("cache", "prune", "--unused", days)
    assert done.returncode == 2
    assert done.stderr.startswith(f"compilekit: --unused {days}: write a number of days above 0")


@pytest.mark.parametrize("size", ["-1 GB", "0 GB", "", "9" * 400 + " GB"])
def test_a_size_that_is_none_is_refused(size):
    done = command("cache", "prune", "--limit", size)
    assert (done.returncode, "is not a size" in done.stderr) == (2, True)


@pytest.mark.parametrize("name", ["", " ", "-"])
@pytest.mark.parametrize("verb", ["apply", "build", "run"])
def test_an_output_without_a_name_is_refused(verb, name, tmp_path):
    done = command(verb, "nosuch", "-o", name, cwd=tmp_path)
    assert done.returncode == 2
    assert f'"{name}" is no folder: name one' in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["", " ", "-", ".", ".."])
def test_python_refuses_such_a_target_too(target):
    with pytest.raises(ck.UsageError, match="is no new folder: name one"):
        ck.build(ck.Recipe.from_steps("precision{dtype=bfloat16}"), 3, target, progress=False)


def test_the_name_of_a_recipe_leads_out_of_no_folder(write):
    recipe = write("evil.yaml", RECIPE.format(name="../evil", step="channels_last"))
    with pytest.raises(ck.RecipeError, match="is no plain file name"):
        ck.build(recipe, 3, progress=False)


def test_escape_sequences_are_shown_and_not_sent(write):
    text = RECIPE.format(name='a\ndescription: "a\\e[31m\\x9b1m"', step="channels_last")
    shown = command("plan", write("a.yaml", text), "--json").stdout
    assert "\x9b" not in shown
    assert json.loads(shown)["description"] == "a\x1b[31m\x9b1m"
    named = write("b.yaml", RECIPE.format(name='"a\\e[31m\\x9b1m"', step="channels_last"))
    assert '"a\\u001b[31m\\x9b1m" is no plain file name' in command("plan", named).stderr
    unknown = write("c.yaml", RECIPE.format(name="c", step='"\\e[31m"'))
    assert 'no plugin brings a step "\\x1b[31m"' in command("plan", unknown).stderr
    for words in (
        ["plan", "b\x1b[2J"],
        ["b\x1b[2J"],
        ["plan", "--b\x1b[2J"],
        ["plan", "a", "\x1b"],
    ):
        done = command(*words)
        assert (done.returncode, "\x1b" in done.stderr) == (2, False), words


def test_what_a_library_wrote_is_shown_without_them(write):
    recipe = write("a.yaml", RECIPE.format(name="a", step="loud"))
    plugin = write("loud.py", "import sys\nprint('\\033[2Jhello')\nsys.exit(4)\n")
    done = ran(COMMAND, "plan", str(recipe), "--plugin", str(plugin))
    assert "\x1b" not in done.stdout + done.stderr


def test_a_locale_of_ascii_is_no_error(write):
    recipe = str(write("é.yaml", RECIPE.format(name="a\ndescription: 中", step="channels_last")))
    ascii_ = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for variables in (ascii_, {"PYTHONIOENCODING": "ascii"}):
        done = ran(COMMAND, "plan", recipe, "--json", **variables)
        assert (done.returncode, json.loads(done.stdout)["description"]) == (0, "中")
        done = ran(COMMAND, "plan", "é", **variables)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has none")
@pytest.mark.parametrize("words", ["recipes", "--help"])
def test_a_full_device_is_one_line(words):
    done = shell(f"{COMMAND} {words} >/dev/full")
    said = "compilekit: the output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_a_closed_output_is_no_error():
    for words in ("--help", "--version", "plan sd/compile"):
        done = shell(f"{COMMAND} {words} >&-")
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", [[COMMAND], ["-m", "compilekit"]])
def test_an_interrupt_while_it_is_imported_is_one_line(words):
    started = [*LISTENING, sys.executable, "-X", "importtime", *words, "doctor"]
    with subprocess.Popen(started, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        while "compilekit.base.interrupts" not in running.stderr.readline():
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=60)
    assert (running.returncode, "Traceback" in errors) == (130, False)
    assert errors.endswith("compilekit: interrupted\n")


def test_a_hang_up_is_a_termination(write):
    recipe = write("a.yaml", RECIPE.format(name="a", step="gone"))
    text = "import os, signal\nimport compilekit as ck\nos.kill(os.getpid(), signal.SIGHUP)\n"
    text += "@ck.hookimpl(wrapper=True)\ndef optimize_model(): yield\n"
    words = ("plan", str(recipe), "--plugin", str(write("gone.py", text)))
    done = ran(*LISTENING, COMMAND, *words)
    assert (done.returncode, done.stderr) == (143, "compilekit: terminated\n")
    ignored = ran(
        "nohup", COMMAND, *words[:2], "--steps", "channels_last{components=unet}", *words[2:]
    )
    assert ignored.returncode == 0


def test_the_version_is_shown_and_the_shell_completes():
    assert command("--version").stdout == f"compilekit {ck.__version__}\n"
    variables = {"_COMPILEKIT_COMPLETE": "complete_bash", "COMP_WORDS": "compilekit pl"}
    assert ran(COMMAND, **variables, COMP_CWORD="1").stdout.split() == ["plan", "plugins"]
    assert ran(sys.executable, "-m", "compilekit", "--version").returncode == 0


def test_a_recipe_is_read_from_standard_input():
    words = [COMMAND, "plan", "-"]
    for step, code in (("channels_last", 0), ("chanels_last", 2)):
        text = RECIPE.format(name="piped", step=step)
        done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == code
        said = "piped: 1 step" if code == 0 else "compilekit: <stdin>:5:5: steps[0].chanels_last"
        assert (done.stdout + done.stderr).startswith(said)


def test_tables_keep_to_the_columns_of_a_terminal():
    narrow = ran(COMMAND, "plugins", COLUMNS="70").stdout
    assert max(map(len, narrow.splitlines())) <= 70
    for width in ("1", "60"):
        listed = ran(COMMAND, "recipes", COLUMNS=width)
        assert (listed.returncode, listed.stderr) == (0, "")
    assert max(map(len, listed.stdout.splitlines())) <= 60
    wide = ran(COMMAND, "plugins").stdout
    assert len(wide.splitlines()) < len(narrow.splitlines())


def test_a_dry_run_lists_what_a_push_would_upload(bundle):
    done = command("push", bundle, "me/it", "--dry-run")
    assert done.returncode == 0
    assert "manifest.json" in done.stdout
    assert done.stdout.endswith("nothing was uploaded: this was a dry run\n")


@pytest.mark.parametrize(
    ("words", "code"), [(["run", "nosuch"], 1), (["apply", "nosuch.yaml", "nosuch"], 2)]
)
def test_an_output_that_is_left_out_has_a_default_and_stays_away_without_results(
    words, code, tmp_path
):
    done = command(*words, cwd=tmp_path)
    assert (done.returncode, "no such f" in done.stderr) == (code, True)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_choice_is_told_in_plain_words():
    done = command("plan", "any/bfloat16", "--for", "load")
    assert (done.returncode, "Value error" in done.stderr) == (2, False)
    assert "'load' is not one of 'apply', 'build'" in done.stderr


def test_bytes_that_are_no_text_are_refused_where_they_stand():
    done = command("plan", "any/bfloat16", "--steps", "channels_last, \udcff")
    said = "<steps>:1:16: half a surrogate pair is not a character"
    assert (done.returncode, said in done.stderr) == (2, True)


def test_a_file_is_no_name_of_the_hub(write):
    recipe = write("a.yaml", RECIPE.format(name="a", step="channels_last"))
    done = command("apply", recipe, "a.yaml", cwd=recipe.parent)
    assert (done.returncode, "a.yaml: a file, and a model is" in done.stderr) == (2, True)


@pytest.mark.parametrize("verb", ["apply", "build"])
def test_a_name_that_no_folder_can_have_is_refused(verb, tmp_path):
    done = command(verb, "any/bfloat16", "nosuch", "-o", "x" * 300, cwd=tmp_path)
    assert (done.returncode, "too long" in done.stderr) == (2, True)


def test_a_current_folder_that_was_removed_is_told(tmp_path):
    gone = tmp_path / "gone"
    for verb in ("apply", "build"):
        gone.mkdir()
        words = f"cd {gone}; rmdir {gone}; {COMMAND} {verb} any/bfloat16 nosuch -o new"
        done = shell(words)
        assert (done.returncode, "the current folder was removed" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    "words", [["verify"], ["inspect"], ["diff", "a" * 300], ["replay"], ["run"]]
)
def test_a_name_that_no_file_can_have_is_refused(words, tmp_path):
    done = command(*words, "a" * 300, cwd=tmp_path)
    assert (done.returncode, "too long" in done.stderr) == (2, True), done.stderr
