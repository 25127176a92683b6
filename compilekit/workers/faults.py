"""Faults that a worker knows: told in one sentence, without a traceback.

A worker's package raises them. This file imports nothing, since it also runs in interpreters
without compilekit.
"""

from __future__ import annotations


class Fault(Exception):  # noqa: N818 - the subclasses say whose fault it is
    """The step cannot do it."""

    worker_kind = "step"


class MachineFault(Fault):
    """This machine, or this interpreter, cannot do it."""

    worker_kind = "machine"


class ModelFault(Fault):
    """The model does not fit."""

    worker_kind = "model"
