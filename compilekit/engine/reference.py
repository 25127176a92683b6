"""The reference for errors: float32 eager outputs on recorded inputs, component by component."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from compilekit.base.texts import summary
from compilekit.engine.recording import Call, seeded
from compilekit.engine.upcast import AS_LOADED, is_float32, upcast
from compilekit.errors import CompilekitError, MachineError, ModelError
from compilekit.measure import state
from compilekit.measure.compare import tensors_of
from compilekit.subject.model import EntryPoint, cuda_in_use, float_dtype

Outputs = list[tuple[str, torch.Tensor]]
"""The tensors of one call's output, on the CPU, each with a name."""


def outputs_of(output: Any) -> Outputs:
    """The tensors of an output, copied to the CPU: replayed graphs reuse their buffers."""
    return [(name, t.detach().to("cpu", copy=True)) for name, t in tensors_of(output)]


def needs_reference(module: nn.Module) -> bool:
    """Whether a module's own outputs are not those of float32 already."""
    precise = torch.get_float32_matmul_precision() == "highest"
    return cuda_in_use() or not precise or not is_float32(module)


def reference_outputs(entry: EntryPoint, calls: list[Call]) -> list[Outputs]:
    """An entry point's outputs for its recorded calls in float32."""
    try:
        with upcast(entry.owner, entry.name) as device, _no_tf32():
            return [_run(entry, call, device) for call in calls]
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


def _run(entry: EntryPoint, call: Call, device: torch.device | None) -> Outputs:
    # Weights in float64 stay in float64.
    args, kwargs = call.inputs(float_dtype(entry.owner), device)
    with torch.no_grad(), seeded(call):
        return outputs_of(entry(*args, **kwargs))


@contextlib.contextmanager
def _no_tf32() -> Iterator[None]:
    """Compute float32 in float32: CUDA's convolutions use TensorFloat-32 by default."""
    before = state.snapshot()
    torch.set_float32_matmul_precision("highest")
    if cuda_in_use():
        torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        state.restore(before)
