"""`torch_compile`: compile entry points whole, or region by region, in place.

The compiler runs while the step does, on the recorded calls, so that its time is counted
here and nothing compiles in the first real call. In a build, AOTInductor compiles ahead of time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

import compilekit as ck

if TYPE_CHECKING:
    from pathlib import Path

    from compilekit.model import Model
    from compilekit.steps import Device, Purpose, Sizes
    from compilekit_plugins.torch_compile.aot import Runner

Mode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


class TorchCompile(ck.Options):
    """Options of `torch_compile`.

    mode: torch.compile's mode; it is expanded into inductor options.
    fullgraph: make a graph break an error.
    dynamic: true for symbolic shapes, false for fixed ones. Left out, shapes are fixed until
        one changes; in a build, the batch is symbolic and other sizes are fixed.
    duck_shape: false to keep symbolic sizes apart that are equal at first, such as height and width
        (torch's `use_duck_shape`); otherwise a call in which they differ compiles again.
    backend: torch.compile's backend.
    inductor: options of torch's inductor, by name; they hold for this component alone.
    regions: "none" compiles an entry point whole; "model" each of the blocks that the model
        names as repeated; "auto" finds blocks that repeat; "accelerate" does as accelerate's
        `compile_regions`, and compiles what lies between them too; a list names the block classes.
    weights: "shared" weights are read where the model has them, by all shapes and blocks, and
        may be edited in place; "packed" ones are rearranged by the compiler, for lowest latency
        of a whole entry point on a CPU, in one shape.
    """

    mode: Mode = "default"
    fullgraph: bool = False
    dynamic: bool | None = None
    duck_shape: bool = True
    backend: str = "inductor"
    inductor: dict[str, bool | int | float | str] = Field(default_factory=dict)
    regions: Literal["none", "model", "auto", "accelerate"] | list[str] = "none"
    weights: Literal["shared", "packed"] = "shared"


def _effects(options: TorchCompile, device: Device) -> ck.Effects:
    # Hooks inside a component break its graph: between blocks, or so often that nothing is left.
    broken = ["cast_inside", "offloaded_inside", *(["offloaded_blocks"] * options.fullgraph)]
    # A CUDA graph reads weights where they were when it was recorded.
    fixed = device == "cuda" and options.mode in ("reduce-overhead", "max-autotune")
    return ck.effects("compiled", conflicts=["compiled", *broken, *(["offloaded"] * fixed)])


def _check(options: TorchCompile, device: Device, purpose: Purpose) -> Iterable[str]:
    if options.weights == "packed" and device != "cpu":
        yield f'weights: packed is for the target "cpu", not "{device}"'
    if options.weights == "packed" and options.regions != "none":
        yield "weights: packed is for whole entry points: blocks share code, and not packed weights"
    if purpose == "build":
        yield from _check_build(options)
    if options.backend != "inductor":
        if options.mode != "default":
            yield f'mode "{options.mode}" is for the backend "inductor", not "{options.backend}"'
        if options.inductor:
            yield f'inductor options are for the backend "inductor", not "{options.backend}"'
    if options.regions == []:
        yield 'regions names no block class; leave it out, or say "auto"'
    if options.dynamic is False and not options.duck_shape:
        yield "duck_shape is for symbolic sizes, and with `dynamic: false` there are none"


def _check_build(options: TorchCompile) -> Iterable[str]:
    if options.backend != "inductor":
        yield f'backend "{options.backend}" cannot compile ahead of time, only "inductor" can'
    if options.mode == "reduce-overhead":
        yield (
            'mode "reduce-overhead" means CUDA graphs, which code compiled ahead of time has not; '
            "leave it out"
        )
    if options.regions == "accelerate":
        yield (
            "regions: accelerate compiles single layers too, each of which would be a part of the "
            "bundle: say `regions: auto`"
        )
    if options.inductor.get("freezing"):
        yield "freezing packs weights into compiled code: say `weights: packed` in its place"


def _advice(options: TorchCompile, device: Device, machine: ck.Machine) -> Iterable[str]:
    del machine
    if device == "cpu" and options.mode.startswith("max-autotune"):
        yield f'mode "{options.mode}" tries kernels of GPUs: on a CPU it only compiles for longer'


FEW = 4
"""Fewer blocks than this share too little code for regions to pay."""


MANY = 50_000_000
"""With fewer parameters a component is compiled whole soon enough, and never slower for it."""


def _candidates(
    component: ck.ComponentFacts, device: Device, machine: ck.Machine
) -> Iterable[dict[str, str]]:
    """By block where that saves time, whole, and what brings more on a kind of device."""
    del machine
    if component.repeated >= FEW and component.parameters >= MANY:
        yield {"regions": "auto"}
    if device == "cpu" and component.sizes == 1:
        yield {"weights": "packed"}
    yield {}
    if device == "cuda":
        yield {"mode": "max-autotune"}


def _sizes(options: TorchCompile) -> Sizes:
    if options.weights == "packed":
        return "one"
    return {None: "batch", True: "any", False: "fixed"}[options.dynamic]  # type: ignore[return-value]


@ck.hookimpl
def describe() -> ck.StepDescription:
    """Say what the step is."""
    return ck.StepDescription(
        help="Compile entry points with torch.compile, whole or by region.",
        options=TorchCompile,
        effects=_effects,
        check=_check,
        advice=_advice,
        candidates=_candidates,
        targets=frozenset({"cpu", "cuda", "mps", "xpu", "hpu"}),
        budget=1e-3,
        exports=True,
        sizes=_sizes,
        # Inductor, Triton, and the compilers for GPUs; `TORCHINDUCTOR` is torch's own.
        variables=("AOT", "TRITON", "NVIDIA", "NVCC", "HIP", "ROC"),
    )


@ck.hookimpl
def optimize_model(model: Model, options: TorchCompile, context: ck.StepContext) -> ck.StepResult:
    """Compile, and run the recorded calls so that compiling happens now."""
    from compilekit_plugins.torch_compile.compiler import Compiler
    from compilekit_plugins.torch_compile.settings import compile_arguments
    from compilekit_plugins.torch_compile.targets import few_blocks, regions, whole
    from compilekit_plugins.torch_compile.watch import Watch, compiler_errors

    compiler = Compiler(compile_arguments(options, context.step.key), options.duck_shape)
    exact = options.regions == "none"
    matched: dict[str, list[str]] = {}
    advice: list[str] = []
    watch = Watch()
    with compiler_errors(context.step.key), watch.open():
        for component in context.components:
            if exact:
                matched[component] = whole(model, component, compiler)
            else:
                matched[component] = regions(model, component, options.regions, compiler)
                advice += few_blocks(component, options.regions, len(matched[component]))
            context.progress(f"compiling {component}")
            if matched[component] and not context.replay(component, exact=exact):
                raise ck.StepError(
                    f"{context.step.key}: {component}: the sample never calls it, so nothing was "
                    "compiled; of a VAE, name `vae.decode` or `vae.encode`"
                )
    watch.mark()
    return ck.StepResult(
        matched=matched,
        changed=matched,
        advice=advice,
        details=watch.summary(),
        late_details=lambda: {"recompiles": watch.compiled_since_mark()},
    )


@ck.hookimpl
def regions(model: Model, options: TorchCompile, context: ck.StepContext) -> list[str] | None:
    """The blocks, and what quantised layers there are beside them."""
    if options.regions == "none":
        return None
    from compilekit_plugins.torch_compile.targets import blocks_of, quantised_outside

    names = []
    for component in context.components:
        entry = model.entry_point(component)
        blocks = blocks_of(model, component, options.regions)
        if not blocks:
            raise ck.StepError(f"{context.step.key}: {component} has no blocks that repeat")
        parts = (*blocks, *quantised_outside(entry.owner, blocks))
        names += [f"{entry.component}.{part}" for part in parts]
    return names


@ck.hookimpl
def export(options: TorchCompile, destination: Path, context: ck.ExportContext) -> ck.Part:
    """Export with torch.export, and compile with AOTInductor."""
    from compilekit_plugins.torch_compile import aot
    from compilekit_plugins.torch_compile.settings import aot_arguments
    from compilekit_plugins.torch_compile.watch import compiler_errors

    key = context.step.key
    packed = options.weights == "packed"
    arguments = aot_arguments(options, key)
    with compiler_errors(key), aot.export_errors(context.entry, key):
        program = aot.program_of(context.flat, context.inputs, context.symbols)
        constants = aot.compile_program(
            program, context.inputs, arguments, destination, packed=packed
        )
    read = aot.weights_read(program) if packed else frozenset()
    return ck.Part(constants=constants, packed=read, details={"packed": packed})


@ck.hookimpl
def load_compiled(part: ck.StoredPart) -> Runner:
    """Load the compiled code; no compiler is needed, and no other library."""
    from compilekit_plugins.torch_compile.aot import Runner

    packed = bool(part.details.get("packed"))
    return Runner(part.folder, part.device, part.constants, packed=packed)
