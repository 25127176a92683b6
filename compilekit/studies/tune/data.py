"""What `tune` finds: trials, the model's facts, and how gains compare. Light: no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from compilekit.base.component import ComponentFacts
from compilekit.report import Speed
from compilekit.report.verdict import kind

State = Literal[
    "measured",
    "over budget",
    "does not fit",
    "failed",
    "crashed",
    "took too long",
    "out of memory",
    "not tried",
]


class Data(BaseModel):
    """Base class of what a study keeps."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class Gain(Data):
    """How many times faster something is; the true value lies between low and high."""

    speedup: float = 1.0
    low: float = 1.0
    high: float = 1.0

    def over(self, other: Gain) -> Gain:
        """How many times faster than another, each measured against the model as loaded.

        The two were measured apart from each other, so that their errors rarely add up.
        """
        middle = self.speedup / other.speedup
        below = math.hypot(self._below, other._above)
        above = math.hypot(self._above, other._below)
        return Gain(speedup=middle, low=middle * math.exp(-below), high=middle * math.exp(above))

    @property
    def _below(self) -> float:
        return max(0.0, math.log(self.speedup / self.low))

    @property
    def _above(self) -> float:
        return max(0.0, math.log(self.high / self.speedup))

    @property
    def kind(self) -> Literal["faster", "slower", "same"]:
        """What can be said for sure."""
        return kind(self)

    def __str__(self) -> str:
        return f"{self.speedup:.2f}x ({self.low:.2f}x to {self.high:.2f}x)"


class Trial(Data):
    """One recipe that was tried.

    steps: the recipe's steps, in the compact text form.
    why: why there is no gain to show; empty if it was measured.
    gain: of the sample as a whole, over the model as loaded.
    speeds: of each entry point that was measured.
    errors: of each entry point, relative L2 against the reference.
    psnr, ssim: of the sample's images.
    seconds: how long the trial took. compiling: how much of it the compilers, as far as steps tell.
    peak: the most memory that the process took.
    step: the position of the step that failed, if one did.
    thorough: how many times more pairs of calls were timed than in a first trial.

    >>> import compilekit as ck
    >>> ck.Trial(steps="channels_last", errors={"unet": 2e-6, "vae.decode": 1e-6}).error
    2e-06
    """

    steps: str
    state: State = "measured"
    why: str = ""
    gain: Gain = Gain()
    speeds: tuple[Speed, ...] = ()
    errors: dict[str, float] = {}
    psnr: float | None = None
    ssim: float | None = None
    seconds: float = 0.0
    compiling: float = 0.0
    peak: int = 0
    step: int | None = None
    thorough: int = 1

    @property
    def error(self) -> float | None:
        """The worst error."""
        return max(self.errors.values(), default=None)


class Facts(Data):
    """The model as loaded.

    components: those that the sample calls.
    calls: how often the sample calls each entry point. seconds: the time of one call.
    sample: the arguments of the sample, where the recipe has none.
    """

    components: tuple[ComponentFacts, ...]
    calls: dict[str, int]
    seconds: dict[str, float]
    sample: dict[str, object] = {}
    is_pipeline: bool = True
    took: float = 0.0

    @property
    def total(self) -> float:
        """The seconds of all calls that the sample makes."""
        return sum(self.calls[name] * self.seconds[name] for name in self.calls)

    def share(self, components: Iterable[str]) -> float:
        """The share of that time that components take."""
        names = self.entries(components)
        return sum(self.calls[n] * self.seconds[n] for n in names) / self.total

    def entries(self, components: Iterable[str]) -> list[str]:
        """The entry points of components that the sample calls."""
        roots = {name.split(".")[0] for name in components}
        return [n for n in self.calls if "*" in roots or n.split(".")[0] in roots]

    def gain(self, speeds: Mapping[str, Gain], entries: Iterable[str]) -> Gain:
        """How many times faster entry points are together; what was not measured is as it was."""
        weights = {name: self.calls[name] * self.seconds[name] for name in entries}
        before = sum(weights.values())
        same = Gain()

        def together(of: Callable[[Gain], float]) -> float:
            return before / sum(w / of(speeds.get(name, same)) for name, w in weights.items())

        if not before:
            return same
        return Gain(
            speedup=together(lambda gain: gain.speedup),
            low=together(lambda gain: gain.low),
            high=together(lambda gain: gain.high),
        )


def gains_of(speeds: Iterable[Speed]) -> dict[str, Gain]:
    """The gains of entry points, by name."""
    return {s.entry: Gain(speedup=s.speedup, low=s.low, high=s.high) for s in speeds}


def front(trials: Iterable[Trial]) -> list[Trial]:
    """The measured trials that no other beats in both speed and error."""
    measured = [trial for trial in trials if trial.state == "measured"]

    def beaten(one: Trial) -> bool:
        error, speedup = one.error or 0.0, one.gain.speedup
        return any(
            other.gain.speedup >= speedup
            and (other.error or 0.0) <= error
            and (other.gain.speedup > speedup or (other.error or 0.0) < error)
            for other in measured
        )

    return [trial for trial in measured if not beaten(trial)]
