"""What a bisection finds. Light: no torch."""

from __future__ import annotations

from dataclasses import dataclass

from compilekit.base.texts import printable


@dataclass(frozen=True, repr=False)
class Blame:
    """What `bisect` found.

    step: the first step with which the recipe fails, as `steps[2].torch_compile`.
    component, block: where in it, as far as could be told.
    together_with: earlier steps without which it does not fail.
    why: what the check said.
    runs: how often the sample was run.

    >>> import compilekit as ck
    >>> print(ck.Blame("steps[1].prune", "unet", "", (), "it moved unet by 0.02", 5))
    steps[1].prune on unet: it moved unet by 0.02 (5 runs of the sample)
    """

    step: str
    component: str
    block: str
    together_with: tuple[str, ...]
    why: str
    runs: int

    def __repr__(self) -> str:
        return f"<Blame {printable(self._what())}>"

    def __str__(self) -> str:
        runs = f"{self.runs} run{'s' * (self.runs != 1)} of the sample"
        return f"{self._what()}: {self.why} ({runs})"

    def _what(self) -> str:
        where = f" on {self.block or self.component}" if self.block or self.component else ""
        others = f", together with {', '.join(self.together_with)}" if self.together_with else ""
        return f"{self.step}{where}{others}"
