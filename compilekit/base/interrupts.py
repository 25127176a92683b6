"""What ends a command from outside. Light: it comes before every other import."""

from __future__ import annotations

import os
import signal
import sys

INTERRUPTED, TERMINATED = 130, 143
NAME = "compilekit"


class TerminatedError(KeyboardInterrupt):
    """SIGTERM or SIGHUP came."""


def _end_quietly() -> None:
    """Have Ctrl-C end the command while it is imported: nothing has to be put away yet.

    Whoever imports compilekit as a library keeps what they have.
    """
    if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def _is_command() -> bool:
    words = sys.orig_argv
    as_module = "-m" in words and words[words.index("-m") + 1 :][:1] == [NAME]
    return as_module or (sys.argv[:1] != [] and sys.argv[0].rpartition(os.sep)[2] == NAME)


def _end(*_: object) -> None:
    os.write(2, b"compilekit: interrupted\n")
    os._exit(INTERRUPTED)


_end_quietly()


def raise_errors() -> None:
    """Have Ctrl-C, SIGTERM and SIGHUP raise from now on, so that everything is put away."""
    owner = os.getpid()

    def terminate(*_: object) -> None:
        if os.getpid() != owner:  # a worker of a compiler, which inherited this
            os._exit(TERMINATED)
        raise TerminatedError

    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, terminate)
