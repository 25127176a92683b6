"""Command lines made at random end with an exit code and a message, and write nowhere else."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import typer
from hypothesis import given, settings
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


def stocked(folder: Path) -> set[str]:
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    (folder / "folder").mkdir()
    return {*FILES, "folder", "compilekit-out", NAMED, "outside"}


def check(words):
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        outside = Path(name)
        folder = outside / "here"
        folder.mkdir()
        allowed = stocked(folder)
        patch.chdir(folder)
        for variable in ("HOME", "XDG_CACHE_HOME", "COMPILEKIT_CACHE", "HF_HOME"):
            patch.setenv(variable, str(folder / "outside"))
        patch.delenv("COLUMNS", raising=False)
        done = CliRunner().invoke(app, words, input="", env=dict(os.environ))
        left = {path.name for path in folder.iterdir()}
        strangers = {path.name for path in outside.iterdir()} - {"here"}
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise AssertionError(words) from done.exception
    assert done.exit_code in (0, 1, 2, 3), (words, done.exit_code)
    assert "Traceback" not in done.output, words
    assert all(line.isprintable() for line in done.output.replace("\t", " ").split("\n")), words
    assert left <= allowed, (words, left - allowed)
    assert not strangers, (words, strangers)
    assert done.exit_code == 0 or done.output, words


@settings(max_examples=250, derandomize=True)
@given(command_lines())
def test_any_command_line_ends_with_an_exit_code_and_a_message(words):
    check(words)


@pytest.mark.full
@settings(max_examples=20_000)
@given(command_lines())
def test_very_many_command_lines_do(words):
    check(words)
