"""The words that a plugin and the host share about a step: what it is, needs, does and did.

Everything here is light: no torch. A plugin describes itself with `StepDescription`, says
what it does to a component with `Effects`, and answers with a `StepResult`, or with a `Part` where
it compiles ahead of time. What it may ask for meanwhile stands in `contexts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from compilekit.base.words import Change, Device, Purpose, Severity, Sizes

if TYPE_CHECKING:
    import numpy as np
    import torch

    from compilekit.errors import Location

FRESH = frozenset({"plain_linear_weights", "stock_state_dict"})
"""The properties that every component has before the first step."""


class Options(BaseModel):
    """Base of a step's options: unknown keys are errors, values are not changed afterwards.

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
    gives, removes: properties that it has, or no longer has, afterwards.
    conflicts: properties that it must not have when the step runs.
    needs_later: properties that a later step must give it ("compiled", say).

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
    """What the host knows of a step without running it. Static and light: no torch.

    help: one line for `compilekit plugins` and the manual.
    options: the model of its options; derive it from `Options`.
    effects: a pure function of the options and the target's device.
    targets: the devices that it supports; empty means all.
    packages: distributions that it needs when it runs, beyond those of the core.
    extra: the extra of compilekit (or of the plugin's own package) that brings them.
    budget: how far the step may move a component's outputs, as relative L2 error.
    components: "required" if a recipe must name them, "optional" if leaving them out means
        the whole pipeline.
    exports: whether the plugin implements `export` and `load_compiled`.
    sizes: what a part can serve with these options, one of `SIZES`; "fixed" if left out.
    check: reasons, as sentences, why these options make no sense for a device or purpose.
    judge: how bad it is for the step's parts that a field of the fingerprint differs: called
        with the field's name, its value when the part was built, and its value here. None, or
        an answer of None, leaves it to compilekit.
    reads: the files, folders and hub ids that the step reads with these options, so that a bundle
        in the build cache is not used again when one of them is another by now.
    whole: for a step that exports the whole pipeline at once, in place of entry points: how.
    prepare: called with the options and the purpose once the plan stands, before compilekit loads
        torch and looks for the device. What a vendor's driver reads only while it is imported is
        set here, and the driver imported. It raises `MachineError` where that cannot be done.
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
    judge: Callable[[str, str, str], Severity | None] | None = None
    reads: Callable[[Any], Iterable[str]] | None = None
    whole: Whole | None = None
    prepare: Callable[[Any, Purpose], None] | None = None
    variables: tuple[str, ...] = ()
    move: Callable[[Any], object] | None = None
    wait: Callable[[], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Whole:
    """How a step that exports the whole pipeline fits into builds, bundles and commands.

    All functions are light: they load neither torch nor a vendor's library.

    fingerprint: the versions and the hardware here that its code depends on, by name. They stand
        in the manifest beside the machine's own, and are compared when the bundle is loaded.
    missing: why its bundles cannot be loaded in this process, as a sentence; empty if they can.
    ingredients: what its result is made of that is in neither the model, the options nor what the
        step `reads`: versions of a compiler that runs elsewhere. It is part of the cache's key; an
        answer of None means that it cannot be told, and nothing is cached.
    preflight: the names of its checks before the compiler runs, the quickest first.
    inspect: lines about a folder that it compiled, without a bundle around it; none if it did not.
    doctor: what this machine has and lacks: rows of what, state ("ok" or "absent"), what was
        found, and advice.
    shapes: whether it makes use of the recipe's `shapes:`, which are refused otherwise.

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
    """One step of a plan: checked, and resolved against its plugin's description.

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

    matched: what the step found to work on (module names; counts are shown).
    changed: what of that it changed.
    skipped: what it left alone, and why.
    details: anything else worth a line in the report.
    kept_state: process-global settings that must stay after the step, and why. Keys are names
        such as "torch.float32_matmul_precision", or patterns with `*`. All others are restored.
    not_savable: components that a folder can no longer hold from now on, and why.
    late_details: called after the sample's last run; what it returns joins `details`.
    remembered: plain values that a step with the effect "runtime" wants back, as
        `context.remembered`, when it runs again on a loaded bundle.

    >>> import compilekit as ck
    >>> ck.StepResult(matched={"unet": ["conv_in"]}, changed={"unet": []}).skipped
    {}
    """

    matched: Mapping[str, list[str]]
    changed: Mapping[str, list[str]]
    skipped: Mapping[str, str] = field(default_factory=dict)
    details: dict[str, object] = field(default_factory=dict)
    kept_state: Mapping[str, str] = field(default_factory=dict)
    not_savable: Mapping[str, str] = field(default_factory=dict)
    late_details: Callable[[], Mapping[str, object]] | None = None
    remembered: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """What `export` made of one entry point and one signature; its files are in `destination`.

    constants: the tensors that the compiled code reads, by its own names for them. Those of the
        model are stored once in the bundle, however many parts read them.
    packed: names of the entry point's weights whose values are in the part's own files, in a
        form of its own, so that the bundle need not hold them again.
    details: plain values (what JSON can hold) that `load_compiled` will need.

    Of a whole pipeline there are no constants, but:

    fingerprint: what it was compiled with, where that was not this process.
    reference: the sample's pictures as the pipeline draws them that is not compiled: an array of
        floats of shape (N, H, W, C).
    drawn: the same pictures, as the compiled one draws them; None where it cannot run here.

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
    """A part as `load_compiled` gets it back, every file checked.

    folder: where its files lie.
    constants: the tensors to read, by the names that `export` gave them, on the device. They
        stay alive and where they are for as long as the part is in use.
    details: what `export` left for it.
    device: where it runs, with its index; of a whole pipeline, the CPU.
    pipeline: of a whole pipeline: the class that the caller wants, in place of the one that was
        compiled, where several share their components; empty for that one.

    >>> import compilekit as ck
    >>> ck.StoredPart.__name__
    'StoredPart'
    """

    folder: Path
    device: torch.device
    constants: Mapping[str, torch.Tensor]
    details: Mapping[str, Any]
    pipeline: str = ""
