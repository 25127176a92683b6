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
    from compilekit.model import Model
    from compilekit.steps import StepContext, StepDescription, StepResult

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
