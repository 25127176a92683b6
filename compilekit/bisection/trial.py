"""One trial of a bisection: some of the steps of a recipe, on a fresh model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from compilekit.engine import Run, end_to_end
from compilekit.errors import PluginError, StepError, VerificationError
from compilekit.instruments import KeepState
from compilekit.model import Model
from compilekit.recording import Recording, on_cpu, record
from compilekit.steps import PlannedStep

BAD = (StepError, VerificationError, PluginError)
"""What a failing step raises; anything else ends the search."""

Check = Callable[[Any], bool]


class Trial(Run):
    """Some of the steps on a fresh model, and whether they pass."""

    runs = 0

    def run_sample(self, sample: Mapping[str, Any]) -> Any:
        """Run the sample, and count it."""
        self.runs += 1
        return super().run_sample(sample)

    def recorded(self, first: Sequence[PlannedStep]) -> tuple[Recording, Any]:
        """The calls of the sample, after some steps, and what it gives."""
        for step in first:
            self._step(step, [KeepState()])
        recording, output = record(
            self._to_record(), self._run_sample, small_stay=self.model.is_pipeline
        )
        return recording, on_cpu(output)

    def why_bad(
        self, recording: Recording, before: Any, check: Check | None, off: Sequence[str]
    ) -> str:
        """Why these steps fail; empty if they pass. `off`: blocks that are not to be compiled."""
        first, rest = self._in_order()
        try:
            for step in first:
                self._step(step, [KeepState()])
            self._recording = recording
            if check is None:
                self._judge(rest, before, off)
                return ""
            for step in rest:
                self._step(step, [KeepState()])
            switch_off(self.model, off)
            return "" if check(self.run_sample(self.sample)) else "the check fails"
        except BAD as error:
            return str(error)

    def _judge(self, rest: Sequence[PlannedStep], before: Any, off: Sequence[str]) -> None:
        """Run the steps, and raise if a budget is broken."""
        verify = self._references(rest)
        for step in rest:
            self._step(step, [KeepState(), verify])
        switch_off(self.model, off)
        self.report.final = verify.final()
        wanted = self.plan.recipe.verify
        if wanted.min_psnr is not None or wanted.min_ssim is not None:
            after = self.run_sample(self.sample)
            self.report.end_to_end = end_to_end(before, after, 0.0, 0.0)
        self.gate()


def switch_off(model: Model, blocks: Sequence[str]) -> None:
    """Let blocks run their own Python again."""
    for name in blocks:
        component, _, path = name.partition(".")
        model.module(component).get_submodule(path)._compiled_call_impl = None  # noqa: SLF001


def compiled_blocks(model: Model, component: str) -> list[str]:
    """The blocks of a component that are compiled each for itself."""
    name = component.split(".", maxsplit=1)[0]
    return [
        f"{name}.{path}"
        for path, module in model.module(name).named_modules()
        if path and module._compiled_call_impl is not None  # noqa: SLF001
    ]


def blocks_inside(module: nn.Module) -> list[str]:
    """The larger parts of a module: members of its lists, and other children that have parts."""
    found = []
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            found += [f"{name}.{index}" for index in range(len(child))]
        elif any(True for _ in child.children()):
            found.append(name)
    return found
