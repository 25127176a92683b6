"""The reference for errors: float32 eager outputs on recorded inputs, component by component."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from compilekit.base.texts import summary
from compilekit.engine.recording import Call, seeded
from compilekit.errors import CompilekitError, MachineError, ModelError
from compilekit.measure import state
from compilekit.measure.compare import tensors_of
from compilekit.subject.model import EntryPoint, cuda_in_use, float_dtype

Outputs = list[tuple[str, torch.Tensor]]
"""The tensors of one call's output, on the CPU, each with a name."""

AS_LOADED = "say `verify: {reference: as_loaded}` to compare with the model as it was loaded"


def outputs_of(output: Any) -> Outputs:
    """The tensors of an output, copied to the CPU: replayed graphs reuse their buffers."""
    return [(name, t.detach().to("cpu", copy=True)) for name, t in tensors_of(output)]


def reference_outputs(entry: EntryPoint, calls: list[Call]) -> list[Outputs]:
    """An entry point's outputs for its recorded calls in float32."""
    try:
        with upcast(entry.owner, entry.name):
            return [_run(entry, call) for call in calls]
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"the float32 reference of {entry.name} does not fit in memory; {AS_LOADED}"
        ) from error
    except CompilekitError:
        raise
    except Exception as error:
        raise ModelError(
            f"the float32 reference of {entry.name} does not run: {summary(error)}; {AS_LOADED}"
        ) from error


def _run(entry: EntryPoint, call: Call) -> Outputs:
    # Weights in float64 stay in float64.
    args, kwargs = call.inputs(float_dtype(entry.owner))
    with torch.no_grad(), seeded(call), _no_tf32():
        return outputs_of(entry(*args, **kwargs))


@contextlib.contextmanager
def _no_tf32() -> Iterator[None]:
    """Compute float32 in float32: CUDA's convolutions use TensorFloat-32 by default."""
    if not cuda_in_use():
        yield
        return
    before = state.snapshot()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        state.restore(before)


@contextlib.contextmanager
def upcast(module: nn.Module, name: str) -> Iterator[None]:
    """Convert a module's weights to float32 in place, and restore them afterwards."""
    tensors = [*module.parameters(), *module.buffers()]
    low = [(t, t.data) for t in tensors if t.dtype in (torch.float16, torch.bfloat16)]
    if any(t.is_meta for t in tensors):
        raise ModelError(f"{name} has weights that are not in memory (offloaded?); {AS_LOADED}")
    # A subclass (a quantised weight, say) is no float16 inside, and cannot be made float32.
    if any(type(t.data) is not torch.Tensor for t in tensors):
        raise ModelError(f"{name} was loaded quantised, so float32 is not to be had; {AS_LOADED}")
    try:
        for tensor, _ in low:
            tensor.data = tensor.data.float()
        yield
    finally:
        # The original tensors: parameters may share memory, which a cast back would undo.
        for tensor, data in low:
            tensor.data = data
