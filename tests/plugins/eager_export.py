"""An exporter of another kind: torch.export's program as JSON, run eagerly when it is loaded."""

from __future__ import annotations

import inspect
from typing import Literal

import compilekit as ck


class EagerExport(ck.Options):
    sizes: Literal["one", "fixed", "batch", "any"] = "batch"
    modules: tuple[str, ...] = ()


@ck.hookimpl
def describe():
    return ck.StepDescription(
        help="Export with torch.export, and run the program eagerly.",
        options=EagerExport,
        effects=lambda options, device: ck.effects("compiled", conflicts=["compiled"]),
        exports=True,
        sizes=lambda options: options.sizes,
        judge=lambda field, built, here: "warning" if field == "transformers" else None,
    )


@ck.hookimpl
def optimize_model(model, context):
    raise NotImplementedError("this step is for builds")


@ck.hookimpl
def regions(options, context):
    if not options.modules:
        return None
    return [f"{component}.{name}" for component in context.components for name in options.modules]


@ck.hookimpl
def export(destination, context):
    import os
    from pathlib import Path

    import torch
    from torch._export.serde.serialize import serialize

    from compilekit_plugins.torch_compile.symbols import check_symbols

    if "EXPORT_LOG" in os.environ:
        with Path(os.environ["EXPORT_LOG"]).open("a", encoding="utf-8") as log:
            log.write(f"{context.entry}\n")
    dims = tuple(dict.fromkeys(each, torch.export.Dim.AUTO) or None for each in context.symbols)
    program = torch.export.export(
        context.flat, context.inputs, dynamic_shapes=(dims,) if any(dims) else None, strict=False
    )
    check_symbols(program, context.symbols)
    # Quantised weights become the plain tensors that they consist of.
    program = program.run_decompositions({})
    (destination / "program.json").write_bytes(serialize(program).exported_program)
    tensors = {**program.state_dict, **program.constants}
    signature = program.graph_signature
    kept = {*signature.inputs_to_parameters.values(), *signature.inputs_to_buffers.values()}
    kept |= set(program.constants)
    return ck.Part(
        constants={name: tensor for name, tensor in tensors.items() if name in kept},
        details={
            "parameters": sorted(signature.inputs_to_parameters.values()),
            "buffers": sorted(set(signature.inputs_to_buffers.values()) & set(program.state_dict)),
            "constants": sorted(program.constants),
        },
    )


@ck.hookimpl
def load_compiled(part):
    import torch
    from torch._export.serde.serialize import SerializedArtifact, deserialize

    state = {name: part.constants[name] for name in part.details["buffers"]}
    for name in part.details["parameters"]:
        state[name] = torch.nn.Parameter(part.constants[name], requires_grad=False)
    constants = {name: part.constants[name] for name in part.details["constants"]}
    text = (part.folder / "program.json").read_bytes()
    program = deserialize(SerializedArtifact(text, state, constants, ((), {})))
    # Older torch puts no check of guards in front.
    takes = inspect.signature(program.module).parameters
    run = program.module(**({"check_guards": False} if "check_guards" in takes else {}))
    return lambda inputs: run(*inputs)
