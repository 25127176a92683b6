"""`machine`: what this machine can do."""

from __future__ import annotations

from compilekit.base.machine import Machine, keep, this_machine


def machine(*, measure: bool = False) -> Machine:
    """What this machine can do: instruction sets, cores, memory, GPUs, and measured rates.

    measure: measure the rates anew, in about five seconds a device, and keep them. They are kept
        for this machine and this torch; `compilekit doctor` measures them too.

    >>> import compilekit as ck
    >>> here = ck.machine()
    >>> here.computes("float32"), here.cores > 0
    (True, True)
    """
    known = this_machine()
    if not measure:
        return known
    from compilekit.measure.rates import gpus, measured

    known = known.model_copy(update={"gpus": gpus(), "rates": measured()})
    keep(known)
    return known
