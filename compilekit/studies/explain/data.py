"""What an explanation says, as it is shown and saved. Light: no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from compilekit.base.words import Change
from compilekit.report import Report

Verdict = Literal["faster", "slower", "dead", "no gain", "changed", "untold", "unmatched"]
"""What a step came to.

faster, slower: it changed the time of a call by more than noise.
dead: it matched something, and changed nothing that can be measured.
no gain: it compiled, and the time is the same.
changed: outputs or bytes are others, and the time is the same.
untold: its time cannot be told, and nothing else changed.
unmatched: it found nothing to work on.
"""


SAME_SHARE, SAME_BYTES = 0.2, 4_000_000
"""A call's memory that differs by less than one of these is taken for the same."""


class _Data(BaseModel):
    # JSON has no number for infinity, which a relative error can be.
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class Timing(_Data):
    """The time of one call of an entry point, as a share of the time before the step.

    ratio, low, high: the median and its interval, measured in turn; None if nothing was compared.
    verdict: "noise" where the interval holds 1, or the median is within 3 % of it; "untold" where
        such an interval is wider than a factor of 1.5.
    together: earlier steps whose time cannot be told from this one's: it compiles after them.
    later: the step that compiles it after this one, so that the time means nothing yet.
    left_out: whether it compares the finished model with one made without the step.
    """

    entry: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: Literal["faster", "slower", "noise", "untold"] = "untold"
    together: list[str] = []
    later: str = ""
    left_out: bool = False


class Moved(_Data):
    """How far a step moved the outputs of an entry point (relative L2), and its error after it.

    rounding: whether it is no more than rounding, or what two runs of one model differ by.
    over_budget: whether `apply` would stop here.
    """

    entry: str
    change: float
    error: float
    rounding: bool
    over_budget: bool


class Working(_Data):
    """The bytes that a call takes beyond what is held before it, before and after the step."""

    entry: str
    before: int
    after: int

    @property
    def is_other(self) -> bool:
        """Whether the call takes more or less than before, by more than allocators differ."""
        most = max(self.after, self.before)
        return abs(self.after - self.before) > max(SAME_SHARE * most, SAME_BYTES)


class Recompile(_Data):
    """What was compiled again, with the guard that failed, and the call that caused it."""

    what: str
    cause: str


class Skipped(_Data):
    """What a step left alone for one reason."""

    reason: str
    names: list[str]


class ExplainedStep(_Data):
    """What one step really did.

    uncalled: components that the sample never calls, so that nothing can be measured of them.
    problems: why `apply` would stop at this step: a broken budget, nothing matched.
    details: what else the step says of itself.
    """

    key: str
    verdict: Verdict
    changes: list[Change]
    matched: int
    changed: int
    bytes_before: int
    bytes_after: int
    budget: float
    moved: list[Moved] = []
    timings: list[Timing] = []
    working: list[Working] = []
    graph_breaks: list[str] = []
    recompiles: list[Recompile] = []
    skipped: list[Skipped] = []
    uncalled: list[str] = []
    problems: list[str] = []
    details: dict[str, Any] = {}


class Called(_Data):
    """An entry point that the sample calls.

    ways: how many signatures its calls have.
    share: of the sample's time, in the model as loaded.
    steps: those that work on it.
    compiled: whether one of these compiles.
    """

    entry: str
    calls: int
    ways: int
    share: float
    steps: list[str]
    compiled: bool


class ShapeRun(_Data):
    """A run of the sample in one of the recipe's `shapes`; `error` says why it does not run."""

    shape: str
    error: str = ""


class Findings(_Data):
    """All that `explain` measured; `Explanation` is the same with ways to show it."""

    recipe: str
    device: str
    compiles: bool
    steps: list[ExplainedStep] = []
    calls: list[Called] = []
    shapes: list[ShapeRun] = []
    problems: list[str] = []
    untimed: str = ""
    report: Report
