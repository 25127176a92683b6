"""`machine`: what this machine can do."""

from __future__ import annotations

from compilekit.base.machine import Machine, keep, this_machine


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
    keep(known)
    return known
