"""Faults that a worker knows: told in one sentence, without a traceback.

A worker's package raises them. This file imports only Python's own library, since it also runs in
interpreters without compilekit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


class Fault(Exception):  # noqa: N818 - the subclasses say whose fault it is
    """The step cannot do it."""

    worker_kind = "step"


class MachineFault(Fault):
    """This machine, or this interpreter, cannot do it."""

    worker_kind = "machine"


class ModelFault(Fault):
    """The model does not fit."""

    worker_kind = "model"


def check_machine(
    findings: Sequence[tuple[bool, str]], note: Callable[[str], None], *, force: bool
) -> None:
    """Raise if a finding is grave, unless the user forces it; note the others.

    findings: whether it is grave, and a sentence.
    """
    for is_grave, text in findings:
        if force or not is_grave:
            note(text)
    grave = "".join(f"\n  {text}" for is_grave, text in findings if is_grave)
    if grave and not force:
        raise MachineFault(f"this machine will not do:{grave}\n`--force` goes on all the same")
