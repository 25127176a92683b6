"""The numbers of a run, as they are saved. Light: no torch."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from compilekit.base.words import Change


class Data(BaseModel):
    """What all parts of a report have in common."""

    # JSON has no number for infinity, which the PSNR of equal images is.
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class Measurement(Data):
    """One entry point in one state of the model.

    seconds: the time of one call.
    change: relative L2 distance from the state before the step.
    error, cosine, max_abs: against the reference.
    compiled: whether compiled code ran.
    final: whether no later step compiles it, so that its time means something.
    """

    entry: str
    calls: int
    seconds: float
    change: float = 0.0
    error: float
    cosine: float
    max_abs: float
    compiled: bool = False
    final: bool = True


class StateChange(Data):
    """A process-global setting that a step changed; `kept` says why it stays, if it does."""

    before: str
    after: str
    kept: str = ""


class StepReport(Data):
    """What one step did."""

    index: int
    name: str
    components: list[str]
    changes: list[Change]
    matched: dict[str, list[str]] = {}
    changed: dict[str, list[str]] = {}
    skipped: dict[str, str] = {}
    details: dict[str, Any] = {}
    measurements: list[Measurement] = []
    budget: float
    seconds: float = 0.0
    verify_seconds: float = 0.0
    parameter_bytes: int = 0
    peak_bytes: int = 0
    state: dict[str, StateChange] = {}


class Speed(Data):
    """How fast one entry point is, beside the model as loaded.

    calls: how many the sample makes.
    seconds, seconds_as_loaded: of one call.
    speedup: how many times faster than as loaded; the true value lies between low and high.
    compiled: whether the recipe compiles it.
    """

    entry: str
    calls: int
    seconds: float
    seconds_as_loaded: float
    speedup: float
    low: float
    high: float
    compiled: bool = False


class Verdict(Data):
    """Whether the finished model is faster than it was as loaded.

    speedup, low, high: of all the sample's calls of the entry points together.
    seconds, seconds_as_loaded: what those calls take.
    not_in_turn: why the two were not measured in turn; empty if they were.
    blame: the step that made the model slower; empty if it is not slower, or by no single step.
    blamed: the speed-up by that step. because: what the step says about this machine.
    """

    speedup: float
    low: float
    high: float
    seconds: float
    seconds_as_loaded: float
    entries: list[Speed]
    not_in_turn: str = ""
    blame: str = ""
    blamed: float = 1.0
    because: str = ""


class Stage(Data):
    """What one stage of a run took.

    peak_bytes: the most memory in use meanwhile; on the CPU, that of the process.
    """

    title: str
    seconds: float
    peak_bytes: int


class EndToEnd(Data):
    """How alike the sample's images are before and after.

    seconds_before, seconds_after: of the sample, where the pipeline is compiled as a whole; else
    0, since the verdict has the times.
    """

    seconds_before: float = 0.0
    seconds_after: float = 0.0
    psnr: float | None = None
    ssim: float | None = None
