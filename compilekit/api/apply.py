"""`apply`, `build` and `replay`: running a recipe on a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compilekit.api.job import ready
from compilekit.base.arguments import path_of
from compilekit.base.staging import absolute, claimed
from compilekit.bundle.loaded import Built
from compilekit.bundle.manifest import NAME as MANIFEST
from compilekit.errors import UsageError
from compilekit.plugin.host import Host, load_host
from compilekit.recipe import Recipe
from compilekit.report import Report

if TYPE_CHECKING:
    import torch

NO_NAMES = ("", "-", "..")


@dataclass(frozen=True, repr=False)
class Applied:
    """What `apply` gives back.

    pipeline: the pipeline or module that was passed in, optimised in place.
    report: what each step did, cost and gained.
    before, after: the output of the sample before the first and after the last step.

    >>> import compilekit as ck
    >>> import torch
    >>> net, recipe = torch.nn.Linear(8, 8), ck.Recipe.from_steps("precision{dtype=bfloat16}")
    >>> inputs = {"input": torch.ones(1, 8)}
    >>> applied = ck.apply(recipe, net, inputs=inputs, progress=False)
    >>> applied.pipeline is net
    True
    """

    pipeline: Any
    report: Report
    before: Any
    after: Any

    def __repr__(self) -> str:
        return f"<Applied: {type(self.pipeline).__name__}, {self.report!r}>"


def apply(
    recipe: Recipe | str | Path,
    pipeline: Any = None,
    *,
    inputs: Mapping[str, torch.Tensor] | None = None,
    host: Host | None = None,
    progress: bool = True,
    strict: bool = False,
) -> Applied:
    """Run a recipe on a pipeline or module, in this process.

    recipe: a `Recipe`, the path of one, or the name of one that comes with compilekit.
    pipeline: a diffusers pipeline, an `nn.Module`, or the folder or hub id of one. By default,
        the recipe's `model:` is loaded. It is changed in place. After an error it may be half
        changed; load it again.
    inputs: example inputs of a plain module, by name. By default, the recipe's `model.inputs`.
    progress: whether to show progress on standard error.
    strict: raise `MachineError` if a step has advice: if it will be slow on this machine.

    >>> import compilekit as ck
    >>> from compilekit.testing import tiny_pipeline
    >>> recipe = ck.Recipe.from_steps(
    ...     "channels_last{components=unet}",
    ...     sample={"prompt": "a cat", "height": 64, "width": 64, "num_inference_steps": 2},
    ... )
    >>> applied = ck.apply(recipe, tiny_pipeline("sd"), progress=False)
    >>> applied.report.end_to_end.psnr > 40
    True
    """
    ready_ = ready(recipe, host=host, progress=progress, strict=strict)
    job = ready_.job(pipeline, inputs)
    from compilekit.engine.run import Execution
    from compilekit.studies.repro import reproducible

    with reproducible(job):
        outcome = Execution(job).run()
    return Applied(job.model.subject, outcome.report, outcome.before, outcome.after)


def build(
    recipe: Recipe | str | Path,
    pipeline: Any = None,
    target: str | Path | None = None,
    *,
    inputs: Mapping[str, torch.Tensor] | None = None,
    host: Host | None = None,
    cache: bool = True,
    force: bool = False,
    progress: bool = True,
    strict: bool = False,
) -> Built:
    """Run a recipe, compile ahead of time, and write a bundle: a folder for `load`.

    recipe, pipeline, inputs, progress, strict: as for `apply`. The pipeline is changed here too.
    target: the folder to write; it must not exist yet. By default, the recipe's name.
    cache: use the build cache, and add to it. A bundle from the cache is copied, and the pipeline
        is not changed.
    force: continue if a step that exports the whole pipeline says that this machine is not
        sufficient.

    Before the bundle gets its name, it is loaded once and answers the recorded calls. So it works
    on this machine.

    >>> import compilekit as ck
    >>> import tempfile
    >>> from compilekit.testing import tiny_pipeline
    >>> recipe = ck.Recipe.from_steps(
    ...     "precision{dtype=bfloat16}",
    ...     sample={"prompt": "a cat", "height": 64, "width": 64, "num_inference_steps": 2},
    ... )
    >>> target = tempfile.mkdtemp() + "/cat"
    >>> built = ck.build(recipe, tiny_pipeline("sd"), target, progress=False)
    >>> ck.load(target, progress=False).unet.dtype
    torch.bfloat16
    """
    ready_ = ready(recipe, host=host, for_="build", progress=progress, strict=strict)
    name = ready_.plan.recipe.name if target is None else target
    path = path_of(name, "a target is the path of a new folder")
    if not str(name).strip() or path.name in NO_NAMES:
        raise UsageError(f'the target "{path}" is no new folder: name one')
    for folder in absolute(path).parents:
        if (folder / MANIFEST).exists():
            raise UsageError(f"{path}: lies in the bundle {folder}, which holds nothing else")
    with claimed(path):
        job = ready_.job(pipeline, inputs)
        from compilekit.build.job import BuildJob
        from compilekit.build.run import build as run
        from compilekit.cache import settings
        from compilekit.cache.store import Cache
        from compilekit.studies.repro import reproducible

        note = job.progress.note
        store = Cache(settings.folder(), settings.limit(), note) if cache else None
        with reproducible(job):
            return run(BuildJob(job, path, store, force=force))


def replay(
    repro: str | Path,
    pipeline: Any = None,
    *,
    inputs: Mapping[str, torch.Tensor] | None = None,
    host: Host | None = None,
    progress: bool = True,
) -> str:
    """Run the failing step of a failed run again. Raises its error, or says that it passes.

    repro: the folder that a failed `apply` or `build` left; its error has it as `repro`.
    pipeline, inputs: the model, as for `apply`. By default, a model with the same configs and
        random weights.
    host: plugins. By default, the installed ones and those in the folder.

    Earlier steps run too, unmeasured; later ones do not.

    >>> import compilekit as ck
    >>> ck.replay("no-such-folder", progress=False)
    Traceback (most recent call last):
    compilekit.errors.UsageError: no-such-folder: is no reproducer: it has no readable state.json
    """
    from compilekit.studies.repro import Reproducer

    reproducer = Reproducer.read(repro)
    host = load_host(reproducer.plugins) if host is None else host
    ready_ = ready(reproducer.recipe, host=host, for_=reproducer.purpose, progress=progress)
    source = reproducer.remade if pipeline is None else pipeline
    return reproducer.replay(ready_.job(source, inputs or reproducer.inputs))
