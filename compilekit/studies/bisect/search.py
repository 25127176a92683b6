"""The search: prefixes of the recipe first, then what the step that was found needs to fail.

That step is tried alone; if it passes alone, the others are left out one at a time. Then its
components are tried, and for a compiling step the blocks, by halves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from compilekit.base.progress import Progress
from compilekit.base.words import ALL_COMPONENTS
from compilekit.engine.job import Job
from compilekit.engine.recording import Recording
from compilekit.errors import UsageError
from compilekit.plan.order import gives, violations
from compilekit.plan.plan import Plan
from compilekit.plugin.steps import PlannedStep
from compilekit.studies.bisect.blame import Blame
from compilekit.studies.bisect.trial import Check, Trial, blocks_inside, compiled_blocks


class Bisect:
    """One search."""

    def __init__(
        self, plan: Plan, job_of: Callable[[Plan], Job], check: Check | None, progress: Progress
    ) -> None:
        self._plan = plan
        self._job_of = job_of
        self._check = check
        self._progress = progress
        self._runs = 0
        self._known: dict[object, str] = {}
        self._always: list[PlannedStep] = []
        if check is None:
            # The output of a step that means to change the image is compared with nothing.
            self._always = [s for s in plan.steps if "results" in s.effects.changes]
        self._recording, self._before = self._record(plan.steps)

    def run(self) -> Blame:
        """Search."""
        steps = [step for step in self._plan.steps if step not in self._always]
        if self._check is not None and not self._check(self._before):
            raise UsageError("the check fails on the model as loaded, without any step")
        if not steps or not self._why(steps):
            raise UsageError(
                "the recipe does not fail, so there is nothing to find: set "
                "verify.max_relative_error in it, or give a check"
            )
        good, bad = 0, len(steps)
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (good, middle) if self._why(steps[:middle]) else (middle, bad)
        *earlier, culprit = steps[:bad]
        together: list[PlannedStep] = []
        why = "" if violations([*self._always, culprit]) else self._why([culprit])
        if not why:
            together = self._needed(culprit, earlier)
            why = self._why([*together, culprit])
        context = together
        if not why:  # more than one combination of earlier steps will do
            context, why = earlier, self._why([*earlier, culprit])
        component, block = self._where(culprit, context)
        return Blame(
            step=culprit.key,
            component=component,
            block=block,
            together_with=tuple(step.key for step in together),
            why=why.partition("\n")[0],
            runs=self._runs,
        )

    def _needed(self, culprit: PlannedStep, earlier: Sequence[PlannedStep]) -> list[PlannedStep]:
        """The earlier steps without which it does not fail."""
        needed = []
        for step in earlier:
            without = [*(other for other in earlier if other is not step), culprit]
            if not violations([*self._always, *without]) and not self._why(without):
                needed.append(step)
        return needed

    def _where(self, step: PlannedStep, earlier: Sequence[PlannedStep]) -> tuple[str, str]:
        """The component at fault, and the block of it, if it is compiled."""
        names = [name for name in step.components if name != ALL_COMPONENTS]
        if ALL_COMPONENTS in step.components:
            names = list(self._trial([]).model.modules)
        fails = (n for n in names if self._why([*earlier, replace(step, components=(n,))]))
        component = names[0] if len(names) == 1 else next(fails, "")
        if not component or "compiled" not in gives(step.effects):
            return component, ""
        return component, self._block(replace(step, components=(component,)), earlier)

    def _block(self, step: PlannedStep, earlier: Sequence[PlannedStep]) -> str:
        trial = self._trial([*earlier, step])
        trial.why_bad(self._recording, self._before, lambda _: True, ())
        self._runs += trial.runs
        blocks = compiled_blocks(trial.model, step.components[0])
        if blocks:
            return self._halved(
                blocks,
                lambda compiled: self._why(
                    [*earlier, step], off=[name for name in blocks if name not in compiled]
                ),
            )
        entry = trial.model.entry_point(step.components[0])
        blocks = [f"{entry.component}.{name}" for name in blocks_inside(entry.owner)]
        if len(blocks) < 2:  # noqa: PLR2004
            return ""
        also = replace(step, components=tuple(blocks))
        self._recording, _ = self._record([*self._plan.steps, also])
        called = [name for name in blocks if self._recording.calls.get(name)]
        return self._halved(
            called, lambda some: self._why([*earlier, replace(step, components=tuple(some))])
        )

    def _halved(self, blocks: list[str], why: Callable[[list[str]], str]) -> str:
        """The block that fails when it is compiled and the others are not; empty if none does."""
        while len(blocks) > 1:
            half = blocks[: len(blocks) // 2]
            blocks = half if why(half) else blocks[len(half) :]
        return blocks[0] if blocks and why(blocks) else ""

    def _why(self, steps: Sequence[PlannedStep], off: Sequence[str] = ()) -> str:
        """Why some steps fail; empty if they pass. What was tried is not tried again."""
        key = (tuple((step.index, step.components) for step in steps), tuple(off))
        if key in self._known:
            return self._known[key]
        names = ", ".join(step.key for step in steps)
        with self._progress.stage(f"trying {names or 'no step'}"):
            trial = self._trial(steps)
            why = trial.why_bad(self._recording, self._before, self._check, off)
        self._runs += trial.runs
        self._progress.note(f"  {'fails' if why else 'passes'}")
        self._known[key] = why
        return why

    def _trial(self, steps: Sequence[PlannedStep]) -> Trial:
        job = self._job_of(replace(self._plan, steps=(*self._always, *steps)))
        return Trial(replace(job, progress=Progress(enabled=False)))

    def _record(self, named: Sequence[PlannedStep]) -> tuple[Recording, Any]:
        """Record the entry points that these steps name."""
        self._known.clear()
        trial = self._trial([])
        with self._progress.stage("recording the sample"):
            recorded = trial.recorded(self._always, named)
        self._runs += trial.runs
        return recorded
