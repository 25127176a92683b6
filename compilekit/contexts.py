"""What a hook may ask for while its step runs, exports, or exports the whole pipeline. Light."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from compilekit.steps import Device, PlannedStep, Purpose

if TYPE_CHECKING:
    import torch

    from compilekit.bundle.signature import Range


class StepContext(Protocol):
    """What a hook may ask the engine for while its step runs.

    >>> import compilekit as ck
    >>> [name for name in vars(ck.StepContext) if name in ("step", "components", "replay")]
    ['step', 'components', 'replay']
    """

    @property
    def step(self) -> PlannedStep:
        """The step that runs."""

    @property
    def components(self) -> tuple[str, ...]:
        """The components and entry points to work on, `*` resolved to the model's own."""

    @property
    def device(self) -> Device:
        """The target's kind of device."""

    @property
    def purpose(self) -> Purpose:
        """Whether the plan is applied or built, or the step runs again on a loaded bundle."""

    @property
    def remembered(self) -> Mapping[str, Any]:
        """What the step's result remembered when the bundle was built; empty before that."""

    def replay(self, component: str, *, exact: bool = False) -> int:
        """Run the recorded calls of a component or entry point; returns how many there were.

        Those of a component's other entry points run too, unless `exact` is true.
        """

    @property
    def calls(self) -> tuple[Mapping[str, Any], ...]:
        """Arguments to warm up with: the sample in one step, and again in each of `shapes:`."""

    def run(self, call: Mapping[str, Any]) -> None:
        """Run the sample with the arguments of one of the calls."""

    def progress(self, message: str) -> None:
        """Show what the step is doing now."""


class WholeContext(StepContext, Protocol):
    """What `export` may ask for where the step exports the whole pipeline.

    The model is on the CPU, and the steps before this one have run.

    >>> import compilekit as ck
    >>> [name for name in vars(ck.WholeContext) if name in ("sample", "scratch", "note")]
    ['sample', 'scratch', 'note']
    """

    @property
    def sample(self) -> Mapping[str, Any]:
        """The sample's arguments, pictures opened; empty where the recipe has none."""

    @property
    def seed(self) -> int:
        """The seed of the sample."""

    @property
    def preflight(self) -> str:
        """The check to run alone, compiling nothing to keep; empty in a build, which runs all."""

    @property
    def force(self) -> bool:
        """Whether to go on where a check of the machine says that it will not do."""

    @property
    def scratch(self) -> Path:
        """An empty folder for what is needed while it works; it is removed afterwards."""

    def run(self, call: Mapping[str, Any]) -> Any:
        """Run the sample on the CPU with the arguments of a call; gives what comes out."""

    def note(self, message: str) -> None:
        """Show a line that stays, and keep it in the report."""


class ExportContext(StepContext, Protocol):
    """What `export` may ask for: one entry point, flattened to tensors in and tensors out.

    >>> import compilekit as ck
    >>> [name for name in vars(ck.ExportContext) if name in ("entry", "flat", "inputs")]
    ['entry', 'flat', 'inputs']
    """

    @property
    def entry(self) -> str:
        """The entry point: `unet`, `vae.decode`, `transformer.transformer_blocks.0`."""

    @property
    def flat(self) -> torch.nn.Module:
        """A module that takes the tensors of one call and gives a tuple of tensors.

        The entry point's own module is its child `owner`. Constants of the call are built in.
        """

    @property
    def inputs(self) -> tuple[torch.Tensor, ...]:
        """The tensors of a call of this signature, fresh, in the order that `flat` takes them."""

    @property
    def symbols(self) -> tuple[Mapping[int, Range], ...]:
        """For each input its symbolic dimensions: `least` and `most` size, `symbol` and `times`.

        Sizes of one symbol go together: each is `times` its value. Sizes of different symbols are
        independent, and the code must take every combination of them.
        """
