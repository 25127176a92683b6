"""The functions of the public API that need a model. They load torch only when called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compilekit.host import Host, load_host
from compilekit.plan import plan
from compilekit.recipe import Recipe
from compilekit.report import Report

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
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


def apply(
    recipe: Recipe | str | Path,
    pipeline: Any = None,
    *,
    inputs: Mapping[str, torch.Tensor] | None = None,
    host: Host | None = None,
    progress: bool = True,
) -> Applied:
    """Run a recipe on a pipeline or module, in this process.

    recipe: a `Recipe`, the path of one, or the name of one that comes with compilekit.
    pipeline: a diffusers pipeline, an `nn.Module`, or the folder or hub id of one; left out,
        the recipe's `model:` is loaded. It is changed in place: after an error it may be half
        changed, and must be loaded again.
    inputs: example inputs of a plain module, by name; left out, the recipe's `model.inputs`.
    progress: whether to show on standard error what is going on.

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
    # Everything that can be checked without torch is checked before it is loaded.
    host = host or load_host()
    checked = plan(recipe, host=host)
    from compilekit.engine import Run
    from compilekit.loading import check_entry_points, check_machine, load_subject, to_device
    from compilekit.model import Model
    from compilekit.progress import Progress
    from compilekit.sample import module_inputs, sample_arguments

    check_machine(checked)
    sample = sample_arguments(checked.recipe)
    shown = Progress(enabled=progress)
    if pipeline is None or isinstance(pipeline, str | Path):
        with shown.stage("loading the model"):
            pipeline = load_subject(checked, None if pipeline is None else str(pipeline))
    specs = checked.recipe.model.inputs if checked.recipe.model else {}
    model = Model(pipeline, inputs or module_inputs(specs, checked.recipe.seed))
    check_entry_points(checked, model)
    to_device(model, checked.device)
    outcome = Run(checked, model, host, sample, shown).execute()
    return Applied(model.subject, outcome.report, outcome.before, outcome.after)
