"""`machine`: what this machine can do."""

from __future__ import annotations

import warnings

from compilekit.base.machine import Machine, keep, this_machine
from compilekit.errors import UsageError


def machine(*, measure: bool = False) -> Machine:
    """What this machine can do: instruction sets, cores, memory, GPUs, and measured rates.

    measure: measure the rates anew, in about five seconds, and keep them for this machine and this
        torch; `compilekit doctor` measures them too.

    >>> import compilekit as ck
    >>> here = ck.machine()
    >>> here.computes("float32"), here.cores > 0
    (True, True)
    """
    if not measure:
        return this_machine()
    from compilekit.measure.rates import measured_machine

    known = measured_machine()
    try:
        keep(known)
    except UsageError as error:
        warnings.warn(str(error), stacklevel=2)
    return known
