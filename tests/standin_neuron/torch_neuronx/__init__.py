"""A stand-in for torch-neuronx, for tests: traces on the CPU, and fixes the shapes."""

import json
import os
from pathlib import Path

import torch

from torch_neuronx import experimental

__all__ = ["DataParallel", "async_load", "dynamic_batch", "experimental", "lazy_load", "trace"]
__version__ = "2.8.0.2.10.16998+standin"

FLAGS = {
    "--auto-cast": ("none", "matmult", "all"),
    "--auto-cast-type": ("bf16", "fp16", "tf32", "fp8_e4m3"),
    "--optlevel": ("1", "2", "3"),
    "--target": ("inf2", "trn1", "trn1n", "trn2"),
    "--model-type": ("transformer", "unet-inference", "generic"),
    "--enable-fast-loading-neuron-binaries": (),
}
"""The flags that the compiler is known to take here; it refuses others."""

VARIABLES = ("NEURON_FUSE_SOFTMAX", "NEURON_CUSTOM_SILU", "NEURON_PLATFORM_TARGET_OVERRIDE")


@torch.jit.script
def _fixed(tensor: torch.Tensor, shape: list[int], multiples: bool) -> torch.Tensor:
    found = list(tensor.shape)
    ok = len(found) == len(shape)
    if ok:
        for i in range(len(shape)):
            if i == 0 and multiples:
                ok = ok and found[i] % shape[i] == 0
            else:
                ok = ok and found[i] == shape[i]
    if not ok:
        raise RuntimeError(
            "neuron stand-in: compiled for shape " + str(shape) + ", called with " + str(found)
        )
    return tensor


class _Static(torch.nn.Module):
    def __init__(self, model, inputs, *, multiples):
        super().__init__()
        self.model = model
        self.shapes = [list(each.shape) for each in inputs]
        self.multiples = multiples

    def forward(self, *inputs):
        pairs = zip(inputs, self.shapes, strict=True)
        return self.model(*(_fixed(each, shape, self.multiples) for each, shape in pairs))


def trace(
    func,
    example_inputs,
    *,
    input_output_aliases=None,
    compiler_workdir=None,
    compiler_args=None,
    inline_weights_to_neff=True,
    cpu_backend=False,
):
    """Trace a module for these shapes alone."""
    flags = _checked(compiler_args or "")
    _note(func, example_inputs, flags, inline_weights_to_neff)
    if os.environ.get("NEURON_STANDIN_FAIL") == type(func).__name__:
        raise RuntimeError("neuronx-cc: [F137] neuronx-cc was forcibly killed")
    return _traced(func, example_inputs, multiples=False)


def _traced(func, inputs, *, multiples):
    static = _Static(func, inputs, multiples=multiples)
    with torch.no_grad():
        made = torch.jit.trace(static, tuple(inputs), strict=False, check_trace=False)
    made.__dict__["_standin"] = (func, inputs)
    return made


def _checked(arguments):
    words = arguments.split() if isinstance(arguments, str) else list(arguments)
    words = [part for word in words for part in word.split("=", 1)]
    flags = {}
    while words:
        name = words.pop(0)
        if name not in FLAGS:
            raise ValueError(f"neuronx-cc: unrecognized argument {name}")
        value = words.pop(0) if FLAGS[name] else ""
        if FLAGS[name] and value not in FLAGS[name]:
            raise ValueError(f"neuronx-cc: argument {name}: invalid choice {value}")
        flags.setdefault(name, []).append(value)
    return flags


def _note(func, inputs, flags, inline):
    if "NEURON_STANDIN_LOG" not in os.environ:
        return
    inner = getattr(func, "model", func)
    row = {
        "wrapper": type(func).__name__,
        "module": type(inner).__name__,
        "shapes": [list(each.shape) for each in inputs],
        "dtypes": sorted({str(each.dtype) for each in inputs}),
        "flags": flags,
        "inline": inline,
        "environment": {name: os.environ.get(name) for name in VARIABLES},
    }
    with Path(os.environ["NEURON_STANDIN_LOG"]).open("a", encoding="utf-8") as log:
        log.write(json.dumps(row) + "\n")


def dynamic_batch(traced):
    """The same module, for batches that are multiples of the compiled one."""
    func, inputs = traced.__dict__["_standin"]
    return _traced(func, inputs, multiples=True)


def _is_traced(module):
    if not isinstance(module, torch.jit.ScriptModule):
        raise TypeError(f"not a traced module: {type(module).__name__}")


def async_load(module, enable_async_load=True):
    """Only looks whether it is a traced module."""
    _is_traced(module)


def lazy_load(module, enable_lazy_load=True):
    """Only looks whether it is a traced module."""
    _is_traced(module)


def move_trace_to_device(module, device_id):
    """Only looks whether it is a traced module."""
    _is_traced(module)


class DataParallel(torch.nn.Module):
    """Cuts the batch in as many pieces as there are cores, and runs them in turn."""

    def __init__(self, model, device_ids=None, dim=0, set_dynamic_batching=True):
        super().__init__()
        _is_traced(model)
        self.model = model
        self.device_ids = list(device_ids or [0])
        if os.environ.get("NEURON_STANDIN_LOG"):
            with Path(os.environ["NEURON_STANDIN_LOG"]).open("a", encoding="utf-8") as log:
                log.write(json.dumps({"parallel": self.device_ids}) + "\n")

    def forward(self, *inputs):
        pieces = [each.chunk(len(self.device_ids)) for each in inputs]
        count = max(map(len, pieces))
        rows = [[piece[i if len(piece) > 1 else 0] for piece in pieces] for i in range(count)]
        return _joined([self.model(*row) for row in rows])


def _joined(results):
    first = results[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(results)
    if isinstance(first, dict):
        return {key: _joined([each[key] for each in results]) for key in first}
    return type(first)(_joined(list(column)) for column in zip(*results, strict=True))
