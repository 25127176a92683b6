"""The output of a command: compilekit's own lines are shown, what libraries write is kept.

Libraries, the compilers that they start, and plugins write to descriptors 1 and 2. While
`captured` holds, those are a file; `own` gives the streams that the user reads. Light: no torch.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from compilekit.base.texts import printable

OUT, ERR = 1, 2
TAB = "\t"
TITLE = "other libraries and plugins wrote:"

_speakers = {"compilekit"}
"""The packages whose warnings are lines of the command: compilekit's, and those of plugins."""

_own: dict[int, TextIO] = {}
_behind: dict[int, int] = {}


def let_speak(module: str) -> None:
    """Show the warnings of a module's package, as those of compilekit are shown."""
    _speakers.add(module.partition(".")[0])


def own(descriptor: int) -> TextIO | None:
    """The stream for compilekit's own lines; None: the usual one, which is not captured."""
    return _own.get(descriptor)


def behind(descriptor: int) -> int:
    """The descriptor that the user reads, for a program of the user's own."""
    return _behind.get(descriptor, descriptor)


def columns() -> int | None:
    """How wide the output of a command may be: that of a terminal, or what COLUMNS says."""
    if OUT not in _own:
        return None
    named = os.environ.get("COLUMNS", "")
    if named.isdecimal() and int(named) > 0:
        return int(named)
    try:
        return os.get_terminal_size(behind(OUT)).columns or None
    except OSError:  # no terminal
        return None


def live() -> bool:
    """Whether this is a command that shows what libraries write, while they write it."""
    return OUT in _own and ERR not in _own


@contextlib.contextmanager
def captured(*, verbose: bool, is_failure: Callable[[BaseException], bool]) -> Iterator[None]:
    """Keep what anything but compilekit writes, and show it if the block fails.

    verbose: show it at once, on standard error; standard output is for results alone.
    """
    with _kept(verbose, is_failure) as path, _redirected(path), _plain_warnings():
        yield


@contextlib.contextmanager
def _kept(verbose: bool, is_failure: Callable[[BaseException], bool]) -> Iterator[Path | None]:
    path = None
    if not verbose:
        with contextlib.suppress(OSError):  # no room to keep anything: it is shown instead
            descriptor, name = tempfile.mkstemp(prefix="compilekit-")
            os.close(descriptor)
            path = Path(name)
    if path is None:
        yield None
        return
    with _watched(path):
        try:
            yield path
        except BaseException as error:
            if is_failure(error) and sys.stderr is not None:
                with contextlib.suppress(OSError):  # nobody reads it any more
                    sys.stderr.write(_shown(path.read_bytes().decode(errors="replace")))
            raise


def _shown(text: str) -> str:
    # Of a progress bar, which is drawn over itself, the last state.
    lines = [line.rstrip().rpartition("\r")[2] for line in text.split("\n")]
    shown = [f"  {printable(line, TAB)}\n" for line in lines if line]
    return "".join([f"{TITLE}\n", *shown]) if shown else ""


@contextlib.contextmanager
def _watched(path: Path) -> Iterator[None]:
    """Have the file shown also if this process dies without a word: by a signal, by C's exit."""
    plain = r"tr -d '\000-\010\013\014\016-\037\177' | tr '\r' '\n'"
    show = f"""{{ [ -s "$0" ] && echo "$1" && <"$0" {plain}; }}"""
    words = ["/bin/sh", "-c", f'read -r line || {show}; rm -f "$0"', str(path), TITLE]
    watcher = None
    with contextlib.suppress(OSError):  # a machine without a shell
        watcher = subprocess.Popen(  # noqa: S603 - all words are our own
            words,
            stdin=subprocess.PIPE,
            stdout=ERR,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        if watcher is not None:
            watcher.communicate(b"done\n")


@contextlib.contextmanager
def _redirected(path: Path | None) -> Iterator[None]:
    """Put the file in the place of both descriptors; without one, standard error in that of 1."""
    # The number of a descriptor that is closed would be given to the next file.
    while (null := os.open(os.devnull, os.O_RDWR)) <= ERR:
        pass
    os.close(null)
    before = {OUT: sys.stdout, ERR: sys.stderr}
    _flush(*before.values())
    target = os.dup(ERR) if path is None else os.open(path, os.O_WRONLY | os.O_APPEND)
    for descriptor in (OUT,) if path is None else (OUT, ERR):
        _behind[descriptor] = os.dup(descriptor)
        stream = before[descriptor]
        is_on = _is_on(stream, descriptor)
        _own[descriptor] = _writer(_behind[descriptor], stream) if is_on else stream
        os.dup2(target, descriptor)
    os.close(target)
    # Loggers keep hold of it: it is never closed, and leads to whatever the descriptor is.
    sink = before[ERR] if path is None else _writer(ERR, before[ERR])
    sys.stdout = sys.stderr = sink
    try:
        yield
        _flush(*_own.values())
    finally:
        for stream in (sink, *before.values()):
            with contextlib.suppress(OSError, ValueError):  # full, or closed by a library
                _flush(stream)
        if "ctypes" in sys.modules:  # what code in C has not written yet
            sys.modules["ctypes"].CDLL(None).fflush(None)
        sys.stdout, sys.stderr = before[OUT], before[ERR]
        for descriptor, real in _behind.items():
            os.dup2(real, descriptor)
            if _own[descriptor] is not before[descriptor]:
                # What could not be written has raised before.
                with contextlib.suppress(OSError):
                    _own[descriptor].close()
            os.close(real)
        _own.clear()
        _behind.clear()


def _is_on(stream: TextIO | None, descriptor: int) -> bool:
    try:
        return stream is None or stream.fileno() == descriptor
    except (AttributeError, OSError, ValueError):  # one that a test has put there
        return False


def _writer(descriptor: int, like: TextIO | None) -> TextIO:
    encoding = "utf-8" if like is None else like.encoding
    return open(descriptor, "w", 1, encoding, "backslashreplace", closefd=False)


def _flush(*streams: TextIO | None) -> None:
    for stream in streams:
        if stream is not None:
            stream.flush()


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show warnings of compilekit and of plugins as other lines; those of libraries are kept."""
    before = warnings.showwarning

    def show(message: Warning | str, *arguments: Any, **more: Any) -> None:
        stream = own(ERR) or sys.stderr
        if _is_told() and stream is not None:
            stream.write(printable(f"warning: {message}", "\n\t") + "\n")
        else:
            before(message, *arguments, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def _is_told() -> bool:
    """Whether compilekit or a plugin called `warnings.warn`, wherever `stacklevel` points."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals["__name__"] in (__name__, "warnings"):
        frame = frame.f_back
    return frame is not None and frame.f_globals["__name__"].partition(".")[0] in _speakers
