"""The functions of the public API that need a model. They load torch only when called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from compilekit.bundle.loaded import Built, Loaded
from compilekit.bundle.manifest import Manifest
from compilekit.bundle.planned import planned
from compilekit.errors import MachineError, UsageError
from compilekit.host import Host, load_host
from compilekit.loading import prepared
from compilekit.plan import plan
from compilekit.progress import Progress
from compilekit.recipe import Recipe
from compilekit.report import Report
from compilekit.signing import Trust, check_trust
from compilekit.whole import missing

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
    host.prepare(checked.steps, "apply")
    from compilekit.engine import Run
    from compilekit.repro import reproducible

    model, sample, shown = prepared(checked, pipeline, inputs, progress=progress)
    with reproducible(checked, model, host):
        outcome = Run(checked, model, host, sample, shown).execute()
    return Applied(model.subject, outcome.report, outcome.before, outcome.after)


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
) -> Built:
    """Run a recipe, compile ahead of time, and write a bundle: a folder that `load` makes ready.

    recipe, pipeline, inputs, progress: as for `apply`. The pipeline is changed in place too.
    target: the folder to write; it must not be there yet. Left out, the recipe's name.
    cache: use the build cache, and add to it. What was built before from the same is copied, and
        then the pipeline is left as it was passed in.
    force: go on where a check of the machine, by a step that exports the whole pipeline, says that
        it will not do.

    The bundle is loaded once and answers the recorded calls before it gets its name, so what
    lies there works on this machine.

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
    host = host or load_host()
    checked = plan(recipe, host=host, for_="build")
    host.prepare(checked.steps, "build")
    from compilekit.building.run import Job
    from compilekit.building.run import build as run
    from compilekit.cache import settings
    from compilekit.cache.store import Cache
    from compilekit.repro import reproducible
    from compilekit.staging import refuse_existing

    path = Path(target or checked.recipe.name)
    refuse_existing(path)
    model, sample, shown = prepared(checked, pipeline, inputs, progress=progress)
    store = Cache(settings.folder(), settings.limit(), shown.note) if cache else None
    job = Job(checked, model, host, sample, shown, path, store, force=force)
    if checked.whole is not None:
        return run(job)  # it fails elsewhere: there is no step to replay here
    with reproducible(checked, model, host):
        return run(job)


def load(
    bundle: str | Path,
    *,
    device: str | None = None,
    on_mismatch: Literal["error", "eager"] = "error",
    on_uncovered: Literal["error", "eager"] = "error",
    check: Literal["all", "code"] = "all",
    pipeline: str = "",
    trust: Trust | None = None,
    host: Host | None = None,
    progress: bool = True,
) -> Any:
    """Make a bundle ready: an ordinary pipeline, whose compiled parts need no compiler.

    device: which one, where there are several: "cuda:1".
    on_mismatch: what to do where the bundle was built for another machine: raise
        `MismatchError`, or run its weights "eager", without the compiled code, with a warning.
    on_uncovered: what a call does that no part was compiled for: raise `UncoveredCallError`, or
        run "eager"; `bundle_of(pipeline).counts()` says how often.
    check: compare the digests of "all" files, or of the "code" alone, which leaves weights out.
    pipeline: the class of pipeline to load, where the bundle is a whole pipeline whose components
        serve others too: "StableDiffusionXLImg2ImgPipeline".
    trust: public keys (PEM files); the bundle must be signed by one of them, as it is now. Where
        the environment variable `COMPILEKIT_TRUST` names keys, this is always so.
    host: plugins; left out, the installed ones.

    Compiled parts are native code: load only bundles that you trust.

    >>> import compilekit as ck
    >>> ck.load("no-such-folder")
    Traceback (most recent call last):
    compilekit.errors.BundleError: no-such-folder: no such folder
    """
    folder = Path(bundle)
    manifest, digest = Manifest.read_with_digest(folder)
    check_trust(folder, manifest, digest, trust)
    shown = Progress(enabled=progress)
    host = host or load_host()
    if manifest.whole is not None:
        if on_mismatch == "eager" or on_uncovered == "eager":
            raise UsageError("this bundle is a pipeline compiled whole: it cannot run eagerly")
        if device and device != manifest.device:
            raise UsageError(
                f'device="{device}": this bundle is a pipeline compiled whole, for '
                f'"{manifest.device}": leave `device` out'
            )
        reason = missing(host, manifest.steps[manifest.whole.step].name)
        if reason:
            raise MachineError(f"{folder} cannot be loaded here: {reason}")
        host.prepare([planned(host, manifest, manifest.whole.step)], "load")
        from compilekit.bundle.whole import load_whole

        return load_whole(
            folder, manifest, host=host, pipeline=pipeline, check=check, progress=shown
        )
    if pipeline:
        raise UsageError(f"pipeline={pipeline}: only a pipeline compiled whole can be another")
    from compilekit.bundle.load import load as run

    return run(
        folder,
        manifest,
        host=host,
        device=_device(device or manifest.device),
        on_mismatch=on_mismatch,
        on_uncovered=on_uncovered,
        check=check,
        progress=shown,
    )


def replay(
    repro: str | Path,
    pipeline: Any = None,
    *,
    inputs: Mapping[str, torch.Tensor] | None = None,
    host: Host | None = None,
    progress: bool = True,
) -> str:
    """Run the failing step of a failed run again, alone; raises what it raises, or says it passes.

    repro: the folder that a failed `apply` or `build` left; its error has it as `repro`.
    pipeline, inputs: the model, as for `apply`; left out, one with the same configs and random
        weights is made.
    host: plugins; left out, the installed ones, and those that lie in the folder.

    Steps before it run too, unmeasured; those after it do not.

    >>> import compilekit as ck
    >>> ck.replay("no-such-folder", progress=False)
    Traceback (most recent call last):
    compilekit.errors.UsageError: no-such-folder: is no reproducer: it has no readable state.json
    """
    from compilekit.repro import replay as run

    return run(repro, pipeline, inputs, host, Progress(enabled=progress))


def bundle_of(pipeline: Any) -> Loaded:
    """What a pipeline that `load` gave back knows of its bundle: its manifest, and its calls.

    >>> import compilekit as ck
    >>> ck.bundle_of(3)
    Traceback (most recent call last):
    compilekit.errors.UsageError: this int did not come out of a bundle
    """
    from compilekit.bundle.load import bundle_of as find

    return find(pipeline)


def _device(name: str) -> torch.device:
    import torch

    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UsageError(f'device="{name}": torch knows no such device') from error
