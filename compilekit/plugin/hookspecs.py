# mypy: disable-error-code="empty-body"
"""The hooks: what compilekit asks of a plugin.

A plugin is a module. It implements `describe` and `optimize_model` for one step, whose name
is the plugin's name. A module that only has hook *wrappers* is an observer: it sees every
step and needs no `describe`. An implementation names the arguments that it wants and leaves
out the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch

    from compilekit.plugin.contexts import Context, ExportContext, StepContext, WholeContext
    from compilekit.plugin.handle import ModelHandle as Model
    from compilekit.plugin.steps import Part, StepDescription, StepResult, StoredPart

PROJECT = "compilekit"
"""The pluggy project name, and the entry point group that plugins are found in."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function of a plugin as a hook: `@hookimpl`, or `@hookimpl(wrapper=True)`."""


@hookspec(firstresult=True)
def describe() -> StepDescription:
    """Say what the step is, without importing torch.

    Called once, when the plugin is loaded. Must return a `StepDescription`.
    """


@hookspec(firstresult=True)
def optimize_model(model: Model, options: Any, context: StepContext) -> StepResult:
    """Change the model in place, in this process.

    Called when the step's turn comes in `apply`.

    model: the handle on the pipeline or module; `model.module("unet")` is a component.
    options: an instance of the description's options model, already validated.
    context: the components to work on, the device, a way to replay recorded calls.

    Must return a `StepResult` that says what was matched and changed.
    """


@hookspec(firstresult=True)
def regions(model: Model, options: Any, context: StepContext) -> Sequence[str] | None:
    """Say which entry points `export` compiles, in place of those that the step names.

    Called once in a build, before `export`. A plugin need not implement it: then the step's
    own components are compiled, whole.

    model, options, context: as for `optimize_model`.

    Must return names of entry points: `transformer.transformer_blocks.0`, say. Blocks that are
    alike in class, weights' shapes and calls share one part. None means the components.
    """


@hookspec(firstresult=True)
def export(
    model: Model, options: Any, destination: Path, context: ExportContext | WholeContext
) -> Part:
    """Compile one entry point ahead of time, for calls of one signature; or the whole pipeline.

    Called in a build in place of `optimize_model`, once for each part. What it gives is loaded
    and verified at once. Where the description says `whole`, it is called once, and what it
    writes becomes the bundle's own folder.

    model, options: as for `optimize_model`.
    destination: an empty folder; everything that the part needs when it is loaded goes there.
    context: the entry point, flattened, and example tensors; of a whole pipeline, the sample.

    Must return a `Part`.
    """


@hookspec(firstresult=True)
def load_compiled(
    part: StoredPart, context: Context
) -> Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]] | Callable[..., Any]:
    """Load a part that `export` wrote, without compiling anything.

    Called when a bundle is loaded, once for each entry point that uses the part, and in a build
    to verify it.

    part: its folder, its constants on the device, and its details.
    context: the step, the device; `context.purpose` is "load" or "build".

    Must return a function from the tensors of a call to the tensors of its result, in the order
    of `context.flat` when the part was exported; for a whole pipeline, the ready pipeline.
    """
