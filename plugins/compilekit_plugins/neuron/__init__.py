"""`neuron`: AWS Inferentia2 and Trainium, by optimum-neuron, compiled on any machine.

The vendor's libraries pin other versions than compilekit runs with, and change the process that
imports them, so they run in a worker. What it compiles is laid out as optimum-neuron does, and
optimum-neuron alone can load it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import compilekit as ck
from compilekit_plugins import elsewhere
from compilekit_plugins.neuron import folder as folders
from compilekit_plugins.neuron import ingredients as made_of
from compilekit_plugins.neuron import machine
from compilekit_plugins.neuron.ingredients import WORKER
from compilekit_plugins.neuron.options import Neuron, objections
from compilekit_plugins.neuron.worker.load import has_device

if TYPE_CHECKING:
    from compilekit.model import Model


@ck.hookimpl
def describe() -> ck.StepDescription:
    """Say what the step is."""
    return ck.StepDescription(
        help="Compile the whole pipeline for AWS Inferentia2 or Trainium, by optimum-neuron.",
        options=Neuron,
        effects=lambda options, device: ck.effects(  # noqa: ARG005
            "compiled", needs=["stock_state_dict"], conflicts=["compiled"]
        ),
        targets=frozenset({"neuron"}),
        budget=0.05,
        components="optional",
        exports=True,
        check=objections,
        judge=machine.judge,
        reads=made_of.files,
        variables=("NEURON", "XLA", "PT_XLA"),
        whole=ck.Whole(
            fingerprint=machine.fingerprint,
            missing=machine.missing,
            ingredients=made_of.ingredients,
            preflight=("host", "trace", "compile"),
            inspect=folders.lines,
            doctor=machine.doctor,
        ),
    )


@ck.hookimpl
def optimize_model(context: ck.StepContext) -> NoReturn:
    """There is nothing to do in this process, and the plan says so before."""
    raise ck.StepError(f"{context.step.key}: it compiles ahead of time: use `compilekit build`")


@ck.hookimpl
def export(model: Model, options: Neuron, destination: Path, context: ck.WholeContext) -> ck.Part:
    """Save the model into a neutral folder, and let the worker compile it from there."""
    import numpy as np

    from compilekit_plugins.neuron.stage import request_of

    request = request_of(model, options, destination, context)
    python = machine.python_of(options.python)
    answer = elsewhere.answer(WORKER, request, python, context, options.time_limit)
    if context.preflight:
        return ck.Part()

    def pictures(name: str) -> Any:
        return np.load(answer[name]["file"], allow_pickle=False) if answer[name] else None

    return ck.Part(
        details={
            "class": answer["class"],
            "parts": answer["seconds"],
            "fixes": answer["fixes"],
            "seconds_before": answer["reference"].get("seconds", 0.0),
            "seconds_after": answer["drawn"].get("seconds", 0.0),
        },
        fingerprint={**answer["versions"], "neuron": options.instance_type},
        reference=pictures("reference"),
        drawn=pictures("drawn"),
    )


@ck.hookimpl
def load_compiled(part: ck.StoredPart, context: ck.StepContext) -> Any:
    """Load the folder with optimum-neuron, which this interpreter has."""
    options: Any = context.step.options
    if not has_device():
        raise ck.MachineError(
            f"{part.folder}: there is no Neuron device here; {machine.DRIVER} bring its driver"
        )
    from compilekit.workers.faults import Fault
    from compilekit_plugins.neuron.worker.load import load

    kind = part.pipeline or part.details["class"]
    try:
        return load(part.folder, kind, options.data_parallel, uncovered=ck.UncoveredCallError)
    except Fault as error:
        raise ck.ModelError(f"{context.step.key}: {error}") from error
