"""One trial of a bisection: some steps of a recipe, on a fresh model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from compilekit.base import torch_internals
from compilekit.engine.instruments import KeepState
from compilekit.engine.job import Job
from compilekit.engine.recording import Recording, on_cpu
from compilekit.engine.run import Execution, end_to_end
from compilekit.errors import PluginError, StepError, VerificationError
from compilekit.plugin.steps import PlannedStep
from compilekit.subject.model import Model

BAD = (StepError, VerificationError, PluginError)
"""What a failing step raises; anything else ends the search."""

Check = Callable[[Any], bool]


class Trial:
    """Some steps on a fresh model, and whether they pass."""

    def __init__(self, job: Job) -> None:
        self.model = job.model
        self._execution = Execution(job)

    @property
    def runs(self) -> int:
        """How often the sample was run."""
        return self._execution.sample_runs

    def recorded(
        self, first: Sequence[PlannedStep], named: Sequence[PlannedStep]
    ) -> tuple[Recording, Any]:
        """The calls of what the named steps work on, after the first steps; and the output."""
        self._perform(first)
        output = self._execution.record(also=named)
        return self._execution.recording, on_cpu(output)

    def why_bad(
        self, recording: Recording, before: Any, check: Check | None, off: Sequence[str]
    ) -> str:
        """Why these steps fail; empty if they pass. `off`: blocks that are not to be compiled."""
        first, rest = self._execution.in_order()
        try:
            self._perform(first)
            self._execution.recording = recording
            if check is None:
                self._check_budgets(rest, before, off)
                return ""
            self._perform(rest)
            switch_off(self.model, off)
            output = self._execution.run_sample(self._execution.sample)
            return "" if check(output) else "the check fails"
        except BAD as error:
            return str(error)

    def _perform(self, steps: Sequence[PlannedStep]) -> None:
        for step in steps:
            self._execution.perform(step, [KeepState()])

    def _check_budgets(self, rest: Sequence[PlannedStep], before: Any, off: Sequence[str]) -> None:
        """Run the steps, and raise if a budget is broken."""
        execution = self._execution
        verify = execution.verify(rest)
        for step in rest:
            execution.perform(step, [KeepState(), verify])
        switch_off(self.model, off)
        execution.report.final = verify.final(again=True)
        budgets = execution.plan.recipe.verify
        if budgets.min_psnr is not None or budgets.min_ssim is not None:
            after = execution.run_sample(execution.sample)
            execution.report.end_to_end = end_to_end(before, after)
        execution.gate()


def switch_off(model: Model, blocks: Sequence[str]) -> None:
    """Let blocks run their own Python again."""
    for name in blocks:
        component, _, path = name.partition(".")
        torch_internals.drop_compiled_call(model.module(component).get_submodule(path))


def compiled_blocks(model: Model, component: str) -> list[str]:
    """The blocks of a component that are compiled one by one."""
    name = component.split(".", maxsplit=1)[0]
    return [
        f"{name}.{path}"
        for path, module in model.module(name).named_modules()
        if path and torch_internals.compiled_call(module) is not None
    ]


def blocks_inside(module: nn.Module) -> list[str]:
    """The larger parts of a module: members of its lists, and other children that have parts."""
    blocks = []
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            blocks += [f"{name}.{index}" for index in range(len(child))]
        elif next(child.children(), None) is not None:
            blocks.append(name)
    return blocks
