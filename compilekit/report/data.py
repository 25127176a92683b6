"""The numbers of a run, as they are saved. Light: no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from compilekit.base.words import Change


class _Data(BaseModel):
    # JSON has no number for infinity, which the PSNR of equal images is.
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class Measurement(_Data):
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


class StateChange(_Data):
    """A process-global setting that a step changed; `kept` says why it stays, if it does."""

    before: str
    after: str
    kept: str = ""


class StepReport(_Data):
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


class EndToEnd(_Data):
    """The sample's run before and after: seconds, and how alike the images are."""

    seconds_before: float
    seconds_after: float
    psnr: float | None = None
    ssim: float | None = None


class Report(_Data):
    """Everything that a run measured. Times mean something only within one run.

    not_savable: components that `save_pretrained` refuses to write, with the step in the way.

    >>> import compilekit as ck
    >>> import torch
    >>> net, recipe = torch.nn.Linear(8, 8), ck.Recipe.from_steps("precision{dtype=bfloat16}")
    >>> inputs = {"input": torch.ones(1, 8)}
    >>> applied = ck.apply(recipe, net, inputs=inputs, progress=False)
    >>> applied.report.baseline_of("model").error
    0.0
    """

    recipe: str
    digest: str
    device: str
    reference: str
    environment: dict[str, str] = {}
    parameter_bytes: int = 0
    baseline: list[Measurement] = []
    steps: list[StepReport] = []
    final: list[Measurement] = []
    end_to_end: EndToEnd | None = None
    not_savable: dict[str, str] = {}
    warnings: list[str] = []

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    def to_json(self) -> str:
        """The report as JSON text."""
        return self.model_dump_json(indent=2, fallback=str) + "\n"

    def baseline_of(self, entry: str) -> Measurement | None:
        """The measurement of an entry point before the first step."""
        return next((m for m in self.baseline if m.entry == entry), None)

    def speedup(self, measurement: Measurement) -> float | None:
        """How many times faster than before, or None where that would mislead."""
        before = self.baseline_of(measurement.entry)
        if before is None or not measurement.final or not measurement.seconds:
            return None
        return before.seconds / measurement.seconds
