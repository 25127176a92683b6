"""Getting ready: from a recipe to a job. Every verb goes through here.

The order matters: the recipe is planned without torch; then the steps prepare the process, since a
driver may have to be set up before torch looks for devices; then the machine is checked; and only
then is the model loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compilekit.base.progress import Progress
from compilekit.base.texts import printable
from compilekit.base.words import Purpose
from compilekit.errors import MachineError
from compilekit.plan.plan import Plan, plan
from compilekit.plugin.host import Host, given_host, load_host
from compilekit.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from compilekit.engine.job import Job

Source = Callable[[], Any] | str | Path | Any
"""A model: the object, its folder or hub id, a function that makes it; None for the recipe's."""


@dataclass(frozen=True)
class Ready:
    """A planned recipe in a prepared process. `job` loads the model."""

    plan: Plan
    host: Host
    progress: Progress

    def job(
        self,
        source: Source = None,
        inputs: Mapping[str, torch.Tensor] | None = None,
        *,
        plan: Plan | None = None,
        before_loading: Callable[[Plan], None] | None = None,
    ) -> Job:
        """Check the machine, read the sample, load the model, and move it to its device.

        plan: some of the recipe's steps, in place of all.
        before_loading: called once the machine is checked.
        """
        with self.progress.stage("importing torch", brief=True):
            from compilekit.engine.job import Job
            from compilekit.subject.load import ready_model, subject_of
            from compilekit.subject.sample import check_inputs, sample_arguments

        check_inputs(inputs)
        chosen = plan or self.plan
        check_machine(chosen)
        sample = sample_arguments(chosen.recipe)
        if before_loading is not None:
            before_loading(chosen)
        subject = subject_of(chosen, source, self.progress)
        model = ready_model(chosen, subject, inputs, self.host)
        return Job(chosen, model, self.host, sample, self.progress)


def ready(
    recipe: Recipe | str | Path,
    *,
    host: Host | None = None,
    for_: Purpose = "apply",
    progress: bool = True,
    strict: bool = False,
    runs_here: bool = True,
) -> Ready:
    """Plan a recipe, and prepare this process for its steps. Loads no torch itself.

    strict: whether advice is an error.
    runs_here: whether the steps run in this process.
    """
    host = given_host(host)
    checked = plan(recipe, host=host, for_=for_)
    if strict:
        refuse_advice(checked)
    shown = Progress(enabled=progress)
    for sentence in checked.advice:
        shown.note(f"advice: {printable(sentence)}")
    if runs_here:
        host.prepare(checked.steps, for_)
    return Ready(checked, host, shown)


def refuse_advice(plan: Plan) -> None:
    """Raise if some step has advice about the machine."""
    if plan.advice:
        raise MachineError("\n".join(plan.advice))


def check_machine(plan: Plan) -> None:
    """Raise unless the packages and the device that a plan needs are here."""
    lacks = [
        f"{step.key} needs {', '.join(missing)}: {step.description.how_to_install}"
        for step in plan.steps
        if (missing := step.description.lacks)
    ]
    if lacks:
        raise MachineError("\n".join(lacks))
    if plan.model_device == "cpu":
        return
    import torch

    module = getattr(torch, plan.model_device, None)
    if module is None or not module.is_available():
        raise MachineError(
            f'the recipe\'s target is "{plan.model_device}", and torch {torch.__version__} '
            "sees no such device here"
        )


def plugin_files(host: Host) -> tuple[Path, ...]:
    """The plugins that were added from files, for another process."""
    files = (Path(plugin.origin) for plugin in host.plugins.values())
    return tuple(path.resolve() for path in files if path.is_file())


@dataclass(frozen=True)
class JobElsewhere:
    """A job for another process, which unpickles this and calls `job`."""

    recipe: Recipe
    source: Callable[[], Any] | str | None
    inputs: Mapping[str, torch.Tensor] | None
    plugins: tuple[Path, ...]

    def job(self, before_loading: Callable[[Plan], None]) -> Job:
        """Get ready in the process that calls this."""
        ready_ = ready(self.recipe, host=load_host(self.plugins), progress=False)
        return ready_.job(self.source, self.inputs, before_loading=before_loading)
