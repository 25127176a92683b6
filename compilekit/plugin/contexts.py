"""What a hook may ask for while it runs. Light: no torch.

Every hook gets a `Context`. What depends on a model or a sample exists only in the contexts of
hooks that run while there is one:

Context             load_compiled, and optimize_model when a bundle is loaded
├── StepContext     optimize_model and regions, in apply and build
│   └── ExportContext   export, of one entry point
└── WholeContext    export, of the whole pipeline
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from compilekit.base.words import Device, Purpose
from compilekit.plugin.steps import PlannedStep

if TYPE_CHECKING:
    import torch

    from compilekit.base.words import Range

NEEDS_A_SAMPLE = ("replay", "calls", "run")


@dataclass(frozen=True, kw_only=True)
class Context:
    """The step that runs, and where.

    step: the step.
    components: the components and entry points to work on; `*` is replaced by all components.
    device: the target's kind of device.
    purpose: "apply", "build", or "load" when a bundle is loaded.
    remembered: what the step's result remembered when the bundle was built; empty before that.
    """

    step: PlannedStep
    components: tuple[str, ...]
    device: Device
    purpose: Purpose
    remembered: Mapping[str, Any] = field(default_factory=dict)
    say: Callable[[str], None] = lambda _: None

    def progress(self, message: str) -> None:
        """Show what the step is doing now."""
        self.say(message)

    def __getattr__(self, name: str) -> Any:
        """Say why a capability is not there."""
        if name in NEEDS_A_SAMPLE:
            raise AttributeError(
                f"context.{name} does not exist here: {self.step.key} runs while a bundle is "
                "loaded, and a bundle has no recorded calls and no sample to run. Return what the "
                "step needs as `remembered` when the bundle is built"
                if self.purpose == "load"
                else f"context.{name} does not exist when the whole pipeline is exported"
            )
        raise AttributeError(f"{type(self).__name__} has no {name}")


class Sample(Protocol):
    """The sample, as the engine runs it for a step."""

    def replay(self, component: str, *, exact: bool = False) -> int:
        """Run recorded calls again."""

    def calls(self) -> tuple[Mapping[str, Any], ...]:
        """The sample's arguments with one denoising step, in every size of the recipe."""

    def run_sample(self, call: Mapping[str, Any]) -> Any:
        """Run the sample with these arguments."""


@dataclass(frozen=True, kw_only=True)
class StepContext(Context):
    """What a hook may ask for while its step runs in `apply` or `build`.

    >>> import compilekit as ck
    >>> [name for name in vars(ck.StepContext) if name in ("replay", "calls", "run")]
    ['replay', 'calls', 'run']
    """

    runner: Sample

    def replay(self, component: str, *, exact: bool = False) -> int:
        """Run the recorded calls of a component or entry point; returns their number.

        The calls of a component's other entry points run too, unless `exact` is true.
        """
        return self.runner.replay(component, exact=exact)

    @property
    def calls(self) -> tuple[Mapping[str, Any], ...]:
        """Arguments to warm up with: the sample with one step, and again in each of `shapes:`."""
        return self.runner.calls()

    def run(self, call: Mapping[str, Any]) -> None:
        """Run the sample with the arguments of one of the calls."""
        self.runner.run_sample(call)


@dataclass(frozen=True, kw_only=True)
class ExportContext(StepContext):
    """What `export` may ask for: one entry point, flattened to tensors in and tensors out.

    entry: the entry point: `unet`, `vae.decode`, `transformer.transformer_blocks.0`.
    flat: a module that takes the tensors of one call and returns a tuple of tensors. Its child
        `owner` is the entry point's own module. Constants of the call are built in.
    inputs: the tensors of one call of this signature, fresh, in the order that `flat` takes them.
    symbols: for each input its symbolic dimensions, each a `Range`. Sizes with one symbol change
        together: each is `times` its value. Different symbols are independent, and the code must
        take every combination of them.

    >>> import compilekit as ck
    >>> [name for name in ck.ExportContext.__annotations__]
    ['entry', 'flat', 'inputs', 'symbols']
    """

    entry: str
    flat: torch.nn.Module
    inputs: tuple[torch.Tensor, ...]
    symbols: tuple[Mapping[int, Range], ...]


@dataclass(frozen=True, kw_only=True)
class WholeContext(Context):
    """What `export` may ask for when the step exports the whole pipeline.

    The model is on the CPU, and the steps before this one have run.

    sample: the sample's arguments, with images opened; empty if the recipe has no sample.
    seed: the seed of the sample.
    preflight: the one check to run, without compiling; empty in a build, which runs all checks.
    force: whether to go on when a check of the machine fails.
    scratch: an empty folder, removed when the build ends.

    >>> import compilekit as ck
    >>> [name for name in ck.WholeContext.__annotations__][:3]
    ['sample', 'seed', 'preflight']
    """

    sample: Mapping[str, Any]
    seed: int
    preflight: str
    force: bool
    scratch: Path
    runner: Sample
    keep_note: Callable[[str], None]

    @property
    def calls(self) -> tuple[Mapping[str, Any], ...]:
        """Arguments to warm up with: the sample with one step, and again in each of `shapes:`."""
        return self.runner.calls() if self.sample else ()

    def run(self, call: Mapping[str, Any]) -> Any:
        """Run the sample on the CPU with the arguments of a call; returns its output."""
        return self.runner.run_sample(call)

    def note(self, message: str) -> None:
        """Show a line that stays, and keep it in the report."""
        self.keep_note(message)
