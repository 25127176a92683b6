"""Command lines made at random end with an exit code and a message, and write nowhere else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import typer
import typer.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from compilekit.cli import app

NAMED = "out"
"""The folder that options with an output may name; all else is only read."""
HOSTILE = (
    *("", " ", "-", "--", ".", "..", "/", "~", "nosuch", "file.txt", "folder", "empty.yaml"),
    *("tiny.yaml", "binary.yaml", "evil.yaml", "../nosuch", "/dev/null", "a\x1b[31m", "a\x9bm"),
    *("\x07", "\u202e", "中é", "a\nb", "\udcff", "a" * 300, "a/" * 3000, "$HOME", "%s", "{}"),
    *("0", "-3", "9" * 400, "1e999", "nan", "inf", "0x10", "1.5", "8 GB", "0 GB", "-1 GB", "101%"),
    *("=", "a=", "a=b", "height=96", "a={", "sd/compile", "sd", "user/name"),
    *("channels_last", "channels_last{", "{a=b}", "nosuch{x=[}", "precision{dtype=bfloat16}"),
)
LONE = {"--install-completion", "--show-completion"}
"""These write into the user's own files, or ask which shell this is."""
FILES = {
    "file.txt": b"text",
    "empty.yaml": b"",
    "binary.yaml": b"\xff\x00",
    "tiny.yaml": b"compilekit: 1\ntarget: {device: cpu}\nsteps: [channels_last]\n",
    "evil.yaml": "compilekit: 1\nname: '../x'\ntarget: {device: 中\x1b}\n".encode(),
}


def commands(group, path=()):
    """Every command, and the words of its name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ROOT = typer.main.get_command(app)
COMMANDS = sorted(commands(ROOT), key=lambda pair: pair[0])


def flags(command):
    """The options of a command, and whether each takes a value."""
    given = [p for p in command.params if p.param_type_name == "option"]
    return [(flag, not p.is_flag) for p in given for flag in (*p.opts, *p.secondary_opts)]


@st.composite
def command_lines(draw):
    """A command, and some of its options and arguments, with values of any kind."""
    path, command = draw(st.sampled_from(COMMANDS))
    values = st.sampled_from(HOSTILE) | st.text(max_size=20)
    words = draw(st.lists(values, max_size=3))
    for flag, has_value in draw(st.lists(st.sampled_from([*flags(command), ("--x", True)]))):
        words.append(flag)
        if flag in ("-o", "--output"):
            words.append(draw(st.sampled_from((NAMED, f"{NAMED}/a\x1b", "", "-", "file.txt/x"))))
        elif has_value:
            words.append(draw(values))
    before = draw(st.lists(st.sampled_from(["--verbose", "--nosuch", "--version"]), max_size=1))
    cut = draw(st.integers(0, 9))  # sometimes not even the command is whole
    return [*before, *(path if cut else path[:-1]), *words]


def stocked(folder: Path) -> None:
    """Put the files into a folder that are not there, and take out what else is."""
    folder.mkdir(exist_ok=True)
    (folder / "folder").mkdir(exist_ok=True)
    for name, content in FILES.items():
        if not (folder / name).exists():
            (folder / name).write_bytes(content)
    for path in folder.iterdir():
        if path.name in ("compilekit-out", NAMED):
            shutil.rmtree(path)


def check(words: list[str], outside: Path) -> None:
    folder = outside / "here"
    stocked(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for variable in ("HOME", "XDG_CACHE_HOME", "COMPILEKIT_CACHE", "HF_HOME"):
            patch.setenv(variable, str(folder / "outside"))
        patch.delenv("COLUMNS", raising=False)
        # The commands are made of the functions once, and not anew for each line.
        patch.setattr(typer.testing, "_get_command", lambda _: ROOT)
        done = CliRunner().invoke(app, words, input="", env=dict(os.environ))
    left = {path.name for path in folder.iterdir()}
    strangers = {path.name for path in outside.iterdir()} - {"here"}
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise AssertionError(words) from done.exception
    assert done.exit_code in (0, 1, 2, 3), (words, done.exit_code)
    assert "Traceback" not in done.output, words
    assert all(line.isprintable() for line in done.output.replace("\t", " ").split("\n")), words
    assert left <= {*FILES, "folder", "compilekit-out", NAMED, "outside"}, (words, left)
    assert not strangers, (words, strangers)
    assert done.exit_code == 0 or done.output, words


def some(count: int) -> settings:
    return settings(max_examples=count, suppress_health_check=list(HealthCheck))


@settings(some(2_000), derandomize=True)
@given(words=command_lines())
def test_any_command_line_ends_with_an_exit_code_and_a_message(words, tmp_path):
    check(words, tmp_path)


@pytest.mark.full
@pytest.mark.timeout(1800)
@some(20_000)
@given(words=command_lines())
def test_very_many_command_lines_do(words, tmp_path):
    check(words, tmp_path)
