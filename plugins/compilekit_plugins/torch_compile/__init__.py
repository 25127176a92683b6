"""`torch_compile`: compile entry points whole, or region by region, in place.

The compiler runs while the step does, on the recorded calls, so that its time is counted
here and nothing compiles in the first real call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

import compilekit as ck

if TYPE_CHECKING:
    from compilekit.model import Model
    from compilekit.steps import Device, Purpose

Mode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


class TorchCompile(ck.Options):
    """Options of `torch_compile`.

    mode: torch.compile's mode; it is expanded into inductor options.
    fullgraph: make a graph break an error.
    dynamic: true for symbolic shapes, false for fixed ones; left out, shapes are fixed until
        one changes.
    backend: torch.compile's backend.
    inductor: options of torch's inductor, by name; they hold for this component alone.
    regions: "none" compiles an entry point whole; "model" each of the blocks that the model
        names as repeated; "auto" finds blocks that repeat; a list names the block classes.
    """

    mode: Mode = "default"
    fullgraph: bool = False
    dynamic: bool | None = None
    backend: str = "inductor"
    inductor: dict[str, bool | int | float | str] = Field(default_factory=dict)
    regions: Literal["none", "model", "auto"] | list[str] = "none"


def _check(options: TorchCompile, device: Device, purpose: Purpose) -> Iterable[str]:
    del device, purpose
    if options.backend != "inductor":
        if options.mode != "default":
            yield f'mode "{options.mode}" is for the backend "inductor", not "{options.backend}"'
        if options.inductor:
            yield f'inductor options are for the backend "inductor", not "{options.backend}"'
    if options.regions == []:
        yield 'regions names no block class; leave it out, or say "auto"'


@ck.hookimpl
def describe() -> ck.StepDescription:
    """Say what the step is."""
    return ck.StepDescription(
        help="Compile entry points with torch.compile, whole or by region.",
        options=TorchCompile,
        effects=lambda options, device: ck.effects(  # noqa: ARG005
            "compiled", conflicts=["compiled"]
        ),
        check=_check,
        targets=frozenset({"cpu", "cuda", "mps", "xpu", "hpu"}),
        budget=1e-3,
    )


@ck.hookimpl
def optimize_model(model: Model, options: TorchCompile, context: ck.StepContext) -> ck.StepResult:
    """Compile, and run the recorded calls so that compiling happens now."""
    from compilekit_plugins.torch_compile.settings import compile_arguments
    from compilekit_plugins.torch_compile.targets import regions, whole
    from compilekit_plugins.torch_compile.watch import Watch, compiler_errors

    arguments = compile_arguments(options, context.step.key)
    result = ck.StepResult(matched={}, changed={})
    matched: dict[str, list[str]] = {}
    watch = Watch()
    with compiler_errors(context.step.key), watch.open():
        for component in context.components:
            if options.regions == "none":
                matched[component] = whole(model, component, arguments)
            else:
                matched[component] = regions(model, component, options.regions, arguments)
            context.progress(f"compiling {component}")
            exact = options.regions == "none"
            if matched[component] and not context.replay(component, exact=exact):
                raise ck.StepError(
                    f"{context.step.key}: {component}: the sample never calls it, so nothing was "
                    "compiled; of a VAE, name `vae.decode` or `vae.encode`"
                )
    result.matched = result.changed = matched
    result.details = watch.summary()
    result.late_details = _late(watch)
    return result


def _late(watch: Any) -> Any:
    watch.mark()

    def details() -> Mapping[str, object]:
        recompiled: list[str] = watch.compiled_since_mark()
        return {"recompiles": recompiled}

    return details
