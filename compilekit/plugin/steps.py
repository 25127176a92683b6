"""The classes with which a plugin describes a step and answers the host. Light: no torch.

A plugin describes its step with `StepDescription` and `Effects`. `optimize_model` returns a
`StepResult`; `export` returns a `Part`. What a hook may ask for while it runs is in `contexts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from compilekit.base.component import ComponentFacts
from compilekit.base.environment import installed_version
from compilekit.base.machine import Machine
from compilekit.base.words import Change, Device, Purpose, Severity, Sizes

if TYPE_CHECKING:
    import numpy as np
    import torch

    from compilekit.errors import Location

FRESH = frozenset({"plain_linear_weights", "stock_state_dict"})
"""The properties that every component has before the first step."""


class Options(BaseModel):
    """Base class of a step's options. Unknown keys are errors; values cannot be changed.

    >>> import compilekit as ck
    >>> class Prune(ck.Options):
    ...     amount: float = 0.5
    >>> Prune(amount=0.25)
    Prune(amount=0.25)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, kw_only=True)
class Effects:
    """What a step does to each component that it works on.

    changes: one or more of the kinds in `CHANGES`.
    needs: properties that the component must have when the step runs.
    gives, removes: properties that the component gains or loses.
    conflicts: properties that the component must not have when the step runs.
    needs_later: properties that a later step must give, for example "compiled".

    >>> import compilekit as ck
    >>> ck.Effects(changes=frozenset({"weights"})).needs
    frozenset()
    """

    changes: frozenset[Change]
    needs: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset()
    removes: frozenset[str] = frozenset()
    conflicts: frozenset[str] = frozenset()
    needs_later: frozenset[str] = frozenset()


def effects(*changes: Change, **properties: Iterable[str]) -> Effects:
    """A short way to write `Effects`.

    >>> effects("weights", needs=["plain_linear_weights"], gives=["pruned"]).gives
    frozenset({'pruned'})
    """
    sets = {name: frozenset(values) for name, values in properties.items()}
    return Effects(changes=frozenset(changes), **sets)


@dataclass(frozen=True, kw_only=True)
class StepDescription:
    """What the host knows about a step without running it. It must not import torch.

    help: one line for `compilekit plugins` and the manual.
    options: the model of its options; derive it from `Options`.
    effects: a pure function of the options and the target's device.
    targets: the devices that it supports; empty means all.
    packages: distributions that it needs when it runs, beyond those of the core.
    extra: the extra of compilekit (or of the plugin's own package) that installs them.
    budget: how far the step may move a component's outputs, as relative L2 error.
    components: "required" if a recipe must name them; "optional" if a step without components
        works on the whole pipeline.
    exports: whether the plugin implements `export` and `load_compiled`.
    sizes: which calls a part serves with these options, one of `SIZES`; "fixed" by default.
    check: returns reasons, as sentences, why these options do not work for a device or purpose.
    advice: returns sentences for people about these options on a device of a machine: what will be
        slow there, and why. It is called with the options, the device and a `Machine`, and must be
        as light as `check`. Advice stops nothing.
    candidates: returns the options with which the step may make a component faster, each as a
        recipe writes them, for `compilekit tune`: the cheapest to try first. It is called with
        `ComponentFacts`, the device and a `Machine`. If it is left out, `tune` tries the step only
        where a recipe's `choices` name it.
    judge: how bad a difference of the fingerprint is for the step's parts. It is called with the
        field's name, its value when the part was built, and its value here. If it is left out or
        returns None, compilekit decides.
    reads: the files, folders and hub ids that the step reads with these options. A bundle in the
        build cache is not used if one of them has changed.
    whole: set if the step exports the whole pipeline in place of entry points.
    prepare: called with the options and the purpose after planning, before compilekit imports
        torch and looks for the device. Use it to set what a driver reads during its import, and
        to import the driver. It raises `MachineError` if that fails.
    variables: beginnings of the names of environment variables that its compiled code depends on,
        "MYCHIP_" for example. Their values are part of the build cache's key.
    move: moves a pipeline to the one device in `targets`, if `pipeline.to(device)` is not enough.
    wait: waits until that device has finished what it was given. Times are read after it.

    >>> import compilekit as ck
    >>> step = ck.StepDescription(
    ...     help="Prune.", options=ck.Options, effects=lambda *_: ck.effects("weights")
    ... )
    >>> step.budget
    0.001
    """

    help: str
    options: type[Options]
    effects: Callable[[Any, Device], Effects]
    targets: frozenset[Device] = frozenset()
    packages: tuple[str, ...] = ()
    extra: str = ""
    budget: float = 1e-3
    components: Literal["required", "optional"] = "required"
    exports: bool = False
    sizes: Callable[[Any], Sizes] | None = None
    check: Callable[[Any, Device, Purpose], Iterable[str]] | None = None
    advice: Callable[[Any, Device, Machine], Iterable[str]] | None = None
    candidates: Callable[[ComponentFacts, Device, Machine], Iterable[Mapping[str, Any]]] | None = (
        None
    )
    judge: Callable[[str, str, str], Severity | None] | None = None
    reads: Callable[[Any], Iterable[str]] | None = None
    whole: Whole | None = None
    prepare: Callable[[Any, Purpose], None] | None = None
    variables: tuple[str, ...] = ()
    move: Callable[[Any], object] | None = None
    wait: Callable[[], None] | None = None

    @property
    def lacks(self) -> list[str]:
        """The packages that it needs and that are not installed."""
        return [name for name in self.packages if not installed_version(name)]

    @property
    def how_to_install(self) -> str:
        """The command that installs what it lacks."""
        return (
            f'pip install "{self.extra}"' if self.extra else f"pip install {' '.join(self.lacks)}"
        )


@dataclass(frozen=True, kw_only=True)
class Whole:
    """How a step exports the whole pipeline, for builds, bundles and commands.

    None of these functions may import torch or a vendor's library.

    fingerprint: the versions and hardware on this machine that its code depends on, by name. The
        manifest holds them beside the machine's own; loading compares them.
    missing: why this process cannot load its bundles, as a sentence; empty if it can.
    ingredients: other inputs of the result, for example versions of a compiler that runs
        elsewhere. They are part of the build cache's key. If it returns None, nothing is cached.
    preflight: the names of its checks before the compiler runs, the quickest first.
    inspect: lines about a folder that the step compiled; none about any other folder.
    doctor: what this machine has and lacks, as rows of name, state ("ok" or "absent"), what was
        found, and advice.
    shapes: whether the step uses the recipe's `shapes:`. If not, they are refused.

    >>> import compilekit as ck
    >>> ck.Whole(fingerprint=lambda: {"compiler": "2.1"}, missing=lambda: "").preflight
    ()
    """

    fingerprint: Callable[[], Mapping[str, str]]
    missing: Callable[[], str]
    ingredients: Callable[[Any], Mapping[str, str] | None] | None = None
    preflight: tuple[str, ...] = ()
    inspect: Callable[[Path], Iterable[str]] | None = None
    doctor: Callable[[], Iterable[tuple[str, str, str, str]]] | None = None
    shapes: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedStep:
    """One checked step of a plan.

    >>> import compilekit as ck
    >>> ck.plan(ck.Recipe.from_steps("precision{dtype=bfloat16}")).steps[0].key
    'steps[0].precision'
    """

    index: int
    name: str
    components: tuple[str, ...]
    options: Options
    effects: Effects
    description: StepDescription
    allow_no_match: bool = False
    budget: float = 1e-3
    location: Location | None = None

    @property
    def key(self) -> str:
        """How messages name it: `steps[2].torch_compile`."""
        return f"steps[{self.index}].{self.name}"


@dataclass(kw_only=True)
class StepResult:
    """What a step did, per component.

    matched: the modules that the step could work on, by name.
    changed: the modules that it changed.
    skipped: the modules that it left alone, and why.
    advice: sentences for people about these options on this model, for the report.
    details: anything else worth a line in the report.
    kept_state: process-global settings that must stay after the step, and why. Keys are names
        such as "torch.float32_matmul_precision", or patterns with `*`. All others are restored.
    not_savable: components that `save_pretrained` can no longer write, and why.
    late_details: called after the sample's last run; its result is added to `details`.
    remembered: plain values that a step gets back, as `context.remembered`, if it runs again on a
        loaded bundle: one with the effect "runtime", or with "structure" where nothing is compiled.

    >>> import compilekit as ck
    >>> ck.StepResult(matched={"unet": ["conv_in"]}, changed={"unet": []}).skipped
    {}
    """

    matched: Mapping[str, list[str]]
    changed: Mapping[str, list[str]]
    skipped: Mapping[str, str] = field(default_factory=dict)
    advice: Sequence[str] = ()
    details: dict[str, object] = field(default_factory=dict)
    kept_state: Mapping[str, str] = field(default_factory=dict)
    not_savable: Mapping[str, str] = field(default_factory=dict)
    late_details: Callable[[], Mapping[str, object]] | None = None
    remembered: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """The result of `export`: one entry point for one signature. Its files are in `destination`.

    constants: the tensors that the compiled code reads, under the names that it uses. A tensor of
        the model is stored once in the bundle, even if many parts read it.
    packed: names of the entry point's weights whose values are in the part's own files. The
        bundle does not store them again.
    details: plain values (that JSON can hold) for `load_compiled`.

    A whole pipeline has no constants. It may have:

    fingerprint: what compiled it, if that was another process.
    reference: the sample's images from the uncompiled pipeline: an array of floats of shape
        (N, H, W, C).
    drawn: the same images from the compiled pipeline; None if it cannot run on this machine.

    >>> import compilekit as ck
    >>> ck.Part(details={"file": "code.so"}).details["file"]
    'code.so'
    """

    constants: Mapping[str, torch.Tensor] = field(default_factory=dict)
    packed: frozenset[str] = frozenset()
    details: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    reference: np.ndarray[Any, Any] | None = None
    drawn: np.ndarray[Any, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class StoredPart:
    """A part as `load_compiled` gets it. Every file has been checked.

    folder: the folder with its files.
    constants: the tensors to read, on the device, under the names that `export` used. They keep
        their memory while the part is in use.
    details: the `details` that `export` returned.
    device: where the part runs, with an index; for a whole pipeline, the CPU.
    pipeline: for a whole pipeline, the class to load if it is not the compiled one; else empty.

    >>> import compilekit as ck
    >>> ck.StoredPart.__name__
    'StoredPart'
    """

    folder: Path
    device: torch.device
    constants: Mapping[str, torch.Tensor]
    details: Mapping[str, Any]
    pipeline: str = ""
