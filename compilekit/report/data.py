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

    seconds: the median time of one call.
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


class EndToEnd(Data):
    """The sample's run before and after: seconds, and how alike the images are."""

    seconds_before: float
    seconds_after: float
    psnr: float | None = None
    ssim: float | None = None
