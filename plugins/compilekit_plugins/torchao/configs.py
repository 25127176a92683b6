"""torchao's own configs: their names in each version, what they take, and on which hardware."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

import compilekit as ck
from compilekit_plugins.torchao import Config, Torchao

if TYPE_CHECKING:
    from torch import nn

    from compilekit.steps import Device

QUANTIZATION = "torchao.quantization"

CLASSES: dict[Config, str] = {
    "int8_dynamic": "Int8DynamicActivationInt8WeightConfig",
    "int8_weight": "Int8WeightOnlyConfig",
    "int4_weight": "Int4WeightOnlyConfig",
    "float8_dynamic": "Float8DynamicActivationFloat8WeightConfig",
    "float8_weight": "Float8WeightOnlyConfig",
}

INT4_ON_CPU = (
    ("torchao.prototype.quantization.int4", "PrototypeInt4WeightOnlyConfig"),
    ("torchao.prototype.quantization.int4", "Int4WeightOnlyOpaqueTensorConfig"),
    ("torchao.prototype.int4_opaque_tensor", "Int4WeightOnlyOpaqueTensorConfig"),
)
"""One class, where torchao 0.18, 0.17, and 0.16 and 0.15 have it."""

LAST_TRIED = "0.18"

GROUP_SIZE = 128

CAPABILITIES: dict[Config, tuple[int, int]] = {
    "int4_weight": (8, 0),
    "float8_dynamic": (8, 9),
    # Eager code can cast its weights anywhere, but Triton knows their dtype only from here on.
    "float8_weight": (8, 9),
}


def check_hardware(options: Torchao, device: torch.device, key: str) -> None:
    """Raise if a GPU cannot do what the config asks of it, before any layer is changed."""
    needs = CAPABILITIES.get(options.config)
    # On AMD's hardware the numbers mean something else; torchao itself knows its kinds.
    if needs is None or torch.version.hip:
        return
    has = torch.cuda.get_device_capability(device)
    if has < needs:
        raise ck.StepError(
            f"{key}: config {options.config} needs a GPU of compute capability "
            f"{_dotted(needs)} or more, and {device} has {_dotted(has)}: say int8_weight or "
            "int8_dynamic, which it can do"
        )


def _dotted(capability: tuple[int, int]) -> str:
    return "{}.{}".format(*capability)


@dataclass(frozen=True)
class Needs:
    """What a layer must be like: multiples that its features must be, and its weight's dtype."""

    inputs: int = 1
    outputs: int = 1
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16, torch.float16)


def _needs(options: Torchao, device: Device) -> Needs:
    config = options.config
    if config == "int8_dynamic" and device == "cuda":
        return Needs(inputs=8, outputs=8)
    if config == "int4_weight" and device == "cpu":
        return Needs(inputs=options.group_size or GROUP_SIZE, outputs=16)
    if config == "int4_weight":
        return Needs(inputs=options.group_size or GROUP_SIZE, dtypes=(torch.bfloat16,))
    if config == "float8_dynamic" and options.granularity == "per_row":
        return Needs(inputs=16, outputs=16, dtypes=(torch.bfloat16,))
    if config == "float8_dynamic":
        return Needs(inputs=16, outputs=16)
    return Needs()


def unfit(layer: nn.Linear, options: Torchao, device: Device) -> str:
    """Why the config cannot take a layer: torchao would leave it out unsaid, or fail on it."""
    needs = _needs(options, device)
    for kind, features, multiple in (
        ("in", layer.in_features, needs.inputs),
        ("out", layer.out_features, needs.outputs),
    ):
        if features % multiple:
            return f"{features} {kind}_features, no multiple of {multiple}"
    if layer.weight.dtype not in needs.dtypes:
        takes = " or ".join(_name(dtype) for dtype in needs.dtypes)
        return f"its weight is {_name(layer.weight.dtype)}, and {options.config} takes {takes}"
    return ""


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def config_of(options: Torchao, device: Device, key: str) -> Any:
    """The config object that torchao wants."""
    if options.config == "int4_weight" and device == "cpu":
        return _quiet(_int4_on_cpu(key), {"group_size": options.group_size or GROUP_SIZE})
    kind = _class(QUANTIZATION, CLASSES[options.config])
    if kind is None:
        raise _missing(options.config, CLASSES[options.config], "0.14", key)
    return _quiet(kind, _arguments(options))


def _arguments(options: Torchao) -> dict[str, Any]:
    from torchao import quantization

    if options.config == "int4_weight":
        # The default packing needs one more package; this one is computed by torch itself.
        return {
            "group_size": options.group_size or GROUP_SIZE,
            "int4_packing_format": "tile_packed_to_4d",
        }
    if options.config == "float8_dynamic":
        by_row = options.granularity == "per_row"
        return {"granularity": quantization.PerRow() if by_row else quantization.PerTensor()}
    return {}


def _quiet(kind: Any, arguments: dict[str, Any]) -> Any:
    # By default it would set flags of inductor for the whole process, and leave them set.
    known = inspect.signature(kind).parameters
    quiet = {"set_inductor_config": False} if "set_inductor_config" in known else {}
    return kind(**arguments, **quiet)


def _int4_on_cpu(key: str) -> Any:
    for module, name in INT4_ON_CPU:
        kind = _class(module, name)
        if kind is not None:
            return kind
    raise _missing("int4_weight on a CPU", INT4_ON_CPU[0][1], "0.15", key)


def _class(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError:
        return None


def _missing(use: str, name: str, since: str, key: str) -> ck.StepError:
    import torchao

    return ck.StepError(
        f"{key}: torchao {torchao.__version__} has no {name}, which {use} needs: install torchao "
        f"{since} to {LAST_TRIED}, or say another config"
    )
