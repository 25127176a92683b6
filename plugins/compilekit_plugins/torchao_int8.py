"""`torchao_int8`: the config `int8_dynamic` of `torchao` under a name of its own.

Weights are stored as int8, activations quantised on the fly. It pays when something compiles it
afterwards; on CUDA, eager, it is many times slower than what it replaces, so a recipe that ends
with it there is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

import compilekit as ck
from compilekit_plugins.torchao import CUDA_ROWS, Torchao, advice_on, effects_of

if TYPE_CHECKING:
    from compilekit.model import Model
    from compilekit.steps import Device


class TorchaoInt8(ck.Options):
    """Options of `torchao_int8`.

    min_features: leave layers alone whose input or output is narrower than this.
    min_rows: leave layers alone that multiply fewer rows than this in a call (time embeddings).
    include: only layers whose names match one of these patterns (`*` stands for anything).
    exclude: not those whose names match one of these.
    """

    min_features: int = Field(default=64, ge=1)
    min_rows: int = Field(default=CUDA_ROWS + 1, ge=1)
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()


def _spelt_out(options: TorchaoInt8) -> Torchao:
    return Torchao(config="int8_dynamic", **options.model_dump())


def _candidates(
    component: ck.ComponentFacts, device: Device, machine: ck.Machine
) -> list[dict[str, Any]]:
    """Its defaults, where the device multiplies int8 and some layer is wide enough."""
    least = TorchaoInt8().min_features
    is_wide = any(min(widths) >= least for widths in component.linears)
    is_fast = device != "cpu" or (machine.computes("int8") and not machine.why_slow("int8"))
    return [{}] if is_wide and is_fast else []


@ck.hookimpl
def describe() -> ck.StepDescription:
    """Say what the step is."""
    return ck.StepDescription(
        help="Quantise linear layers to dynamic int8 with torchao.",
        options=TorchaoInt8,
        effects=lambda options, device: effects_of(_spelt_out(options), device),
        advice=lambda options, *where: advice_on(_spelt_out(options), *where),
        candidates=_candidates,
        targets=frozenset({"cpu", "cuda"}),
        packages=("torchao",),
        extra="compilekit[torchao]",
        budget=0.1,
    )


@ck.hookimpl
def optimize_model(model: Model, options: TorchaoInt8, context: ck.StepContext) -> ck.StepResult:
    """Quantise the layers that pass the filters, and say why the others did not."""
    from compilekit_plugins.torchao.quantise import quantise

    return quantise(model, _spelt_out(options), context)
