"""Faults that the worker knows, by whose they are."""

from __future__ import annotations


class Fault(Exception):  # noqa: N818 - the names of its kinds say it
    """Something that is told in one sentence, without a traceback."""

    worker_kind = "step"


class MachineFault(Fault):
    """This machine, or this interpreter, cannot do it."""

    worker_kind = "machine"


class ModelFault(Fault):
    """The model does not fit."""

    worker_kind = "model"
