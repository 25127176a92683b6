"""The result of `tune` as text. Light: no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from compilekit.base.columns import aligned
from compilekit.base.texts import printable
from compilekit.report.verdict import shown_seconds
from compilekit.studies.tune.data import Facts, Trial, front

NOTHING = "nothing that was tried is faster than the model as loaded"
COLUMNS = ("", "speed-up", "interval", "error", "seconds", "steps")

LONGEST = 200
"""Of a reason, so many characters are shown; the study has all of it."""


def sentence(best: Trial | None, facts: Facts) -> str:
    """The verdict: `1.62x faster than as loaded (0.52 s against 0.84 s; ...)`."""
    if best is None:
        return NOTHING
    if best.gain.kind != "faster":
        return f"{best.gain} as fast as loaded, with the steps that the recipe leaves no choice of"
    now = facts.total / best.gain.speedup
    between = f"{best.gain.low:.2f}x to {best.gain.high:.2f}x"
    error = "" if best.error is None else f", error {best.error:.1e}"
    return (
        f"{best.gain.speedup:.2f}x faster than as loaded ({shown_seconds(now)} against "
        f"{shown_seconds(facts.total)}; {between}){error}"
    )


def pays(best: Trial, facts: Facts) -> str:
    """How long compiling takes, and after how many runs of the sample it pays."""
    if not best.compiling or best.gain.kind != "faster":
        return ""
    gained = facts.total - facts.total / best.gain.speedup
    runs = math.ceil(best.compiling / gained)
    return (
        f"compiling takes {shown_seconds(best.compiling)}, which pays after {runs} "
        f"run{'s' * (runs != 1)} like the sample; a bundle is compiled once, when it is built"
    )


def title(best: Trial | None, facts: Facts) -> Iterator[str]:
    """The comment at the top of the recipe."""
    yield "Found by `compilekit tune`, which tries steps and options and keeps what is faster."
    if best is None:
        yield "On the machine under `tuned:` no step that was tried makes it faster."
        return
    yield f"On the machine under `tuned:` it is {sentence(best, facts)}."
    if text := pays(best, facts):
        yield f"{text[0].upper()}{text[1:]}."


def lines(
    best: Trial | None, facts: Facts, trials: Sequence[Trial], left_out: Sequence[str]
) -> Iterator[str]:
    """The verdict, the trials, and what was not tried."""
    yield sentence(best, facts)
    if best is not None and (text := pays(best, facts)):
        yield text
    yield ""
    yield from table(trials, best)
    failed = [trial for trial in trials if trial.state != "measured"]
    if failed:
        yield ""
        yield from (f"{t.state}: {printable(t.steps)}: {_short(t.why)}" for t in failed)
    if left_out:
        yield ""
        yield from map(printable, dict.fromkeys(left_out))


def table(trials: Sequence[Trial], best: Trial | None) -> list[str]:
    """The trials that were measured, the fastest first; "*" if no other beats both its numbers."""
    # What was measured again is shown as it was measured last.
    last = {trial.steps: trial for trial in trials if trial.state == "measured"}
    kept = front(last.values())
    measured = sorted(last.values(), key=lambda trial: -trial.gain.speedup)
    rows = [COLUMNS]
    for trial in measured:
        mark = "> " if best and trial.steps == best.steps else "* " if trial in kept else "  "
        error = "-" if trial.error is None else f"{trial.error:.1e}"
        interval = f"{trial.gain.low:.2f}x to {trial.gain.high:.2f}x"
        numbers = (f"{trial.gain.speedup:.2f}x", interval, error, f"{trial.seconds:.1f}")
        rows.append((mark, *numbers, printable(trial.steps)))
    legend = ['">" is chosen; "*": no other is both faster and more exact']
    return [*aligned(rows), *legend] if measured else []


def outcome(trial: Trial) -> str:
    """One line about a trial that has ended."""
    if trial.state != "measured":
        return f"{trial.state}: {_short(trial.why)}"
    error = "" if trial.error is None else f", error {trial.error:.1e}"
    return f"{trial.gain}{error}"


def _short(text: str) -> str:
    first = printable(text.partition("\n")[0])
    return first if len(first) <= LONGEST else f"{first[:LONGEST]}..."
