"""The step's work, which the preset `torchao_int8` shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

import compilekit as ck
from compilekit_plugins.torchao import Torchao
from compilekit_plugins.torchao.configs import check_hardware, config_of
from compilekit_plugins.torchao.extensions import extensions, quietly
from compilekit_plugins.torchao.layers import chosen

if TYPE_CHECKING:
    from torch import nn

    from compilekit.model import Model

UNSAID = "torchao left it as it was, and did not say why"


def quantise(model: Model, options: Torchao, context: ck.StepContext) -> ck.StepResult:
    """Quantise what passes the filters in each component."""
    key = context.step.key
    with quietly():
        import torchao.quantization  # noqa: F401 - the first import is the one that talks
    matched: dict[str, list[str]] = {}
    skipped: dict[str, str] = {}
    for component in context.components:
        module = model.module(component)
        if context.device == "cuda":
            check_hardware(options, _gpu(module), key)
        config = config_of(options, context.device, key)
        layers, reasons = chosen(module, component, options, context)
        context.progress(f"quantising {len(layers)} layers of {component}")
        _apply(module, config, layers, f"{key}: {component}")
        for name, layer in layers.items():
            if type(layer.weight) is torch.nn.Parameter:
                reasons[name] = UNSAID
        matched[component] = [name for name in layers if name not in reasons]
        skipped |= {f"{component}.{name}": reason for name, reason in reasons.items()}
    details: dict[str, object] = {"extensions": extensions()}
    return ck.StepResult(matched=matched, changed=matched, skipped=skipped, details=details)


def _gpu(module: nn.Module) -> torch.device:
    """Where a component runs: an offloaded one comes to the current GPU."""
    devices = (tensor.device for tensor in module.parameters())
    return next((device for device in devices if device.type == "cuda"), torch.device("cuda"))


def _apply(module: nn.Module, config: Any, layers: dict[str, nn.Linear], where: str) -> None:
    import torchao

    chosen_layers = set(layers.values())
    try:
        torchao.quantization.quantize_(
            module, config, filter_fn=lambda layer, _: layer in chosen_layers
        )
    except Exception as error:
        raise ck.StepError(f"{where}: torchao {torchao.__version__}: {error}") from error
