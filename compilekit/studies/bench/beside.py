"""Two variants beside each other: each in a process of its own, which take turns."""

from __future__ import annotations

import contextlib
import pickle
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compilekit.base.progress import Progress
from compilekit.engine.pace import Pace
from compilekit.errors import CompilekitError, RecipeError, WorkerError
from compilekit.measure.times import interval, ratios_in_turn
from compilekit.report.verdict import MARGIN
from compilekit.studies.bench.data import FEWEST, BenchRow, Comparison
from compilekit.studies.bench.order import Order
from compilekit.studies.bench.result import Bench
from compilekit.workers import Worker

WORKER = Path(__file__).with_name("worker")
MOST = 300
"""Pairs of turns in a batch, at most."""

LOOKS = 20
"""Of many pairs, only every so many are worth another look."""

KEPT = 1000
"""So many ratios are enough for an interval."""

PATIENCE = 1 / 6
"""The share of the time for a batch that is always taken: a process may be slow for a second."""


@dataclass(frozen=True)
class Effort:
    """How long to measure: at least so many pairs, and while undecided, so many seconds a batch.

    limit: a slowdown that is to be told from a greater one.
    """

    runs: int
    seconds: float
    limit: float | None = None

    def is_enough(self, ratios: Sequence[float]) -> bool:
        """Whether the interval lies on one side of everything that matters.

        A recipe is faster, slower, or neither by more than equal code differs from itself.
        """
        count = len(ratios)
        if count < FEWEST or count % max(1, count // LOOKS):
            return False
        pace = pace_of(ratios)
        edges = [1 / (1 + MARGIN), 1 + MARGIN]
        if self.limit is not None:
            edges.append(1 + self.limit)
        return all(pace.high < edge or pace.low > edge for edge in edges)


def pace_of(ratios: Sequence[float]) -> Pace:
    """The median of ratios, and its interval."""
    kept = ratios[-KEPT:]
    return Pace(statistics.median(kept), *interval(kept))


@dataclass
class Runner:
    """A variant that answers, and what its turns took."""

    name: str
    ask: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    about: Mapping[str, Any]
    turns: list[Mapping[str, Any]] = field(default_factory=list)
    rows: list[BenchRow] = field(default_factory=list)

    def turn(self) -> float:
        """Take a turn; gives the seconds of a run."""
        self.turns.append(self.ask({}))
        return float(self.turns[-1]["seconds"])

    def add_row(self, batch: int, first: Mapping[str, Any]) -> None:
        """Sum up the turns since the last row."""
        turns, self.turns = self.turns, []
        self.rows.append(
            BenchRow(
                batch=batch,
                images=first["images"],
                first=first["seconds"],
                seconds=statistics.median(turn["seconds"] for turn in turns),
                least=min(turn["least"] for turn in turns),
                most=max(turn["most"] for turn in turns),
                peak=max(turn["peak"] for turn in turns),
            )
        )

    def bench(self, runs: int, **more: Any) -> Bench:
        """What was measured."""
        about = self.about
        compiling = about["compiling"]
        if compiling is None and about["compiles"]:  # the step did so when it was first called
            compiling = max(0.0, self.rows[0].first - self.rows[0].seconds)
        return Bench(
            recipe=self.name,
            device=about["device"],
            rows=self.rows,
            setup=about["setup"],
            runs=runs,
            unit=about["unit"],
            environment=about["environment"],
            load=about["load"],
            steps=about["steps"],
            compiling=compiling,
            **more,
        )


def compare(
    one: Order,
    other: Order,
    effort: Effort,
    progress: Progress,
    notes: Sequence[str] = (),
    *,
    needed: bool = True,
) -> Bench:
    """Make both variants, and time them in turn in one batch after the other.

    A small difference may be that of two processes, not of two recipes: their memory lies
    elsewhere. So it is measured again in new ones, and must be there too.

    notes: what limits the comparison.
    needed: whether it is an error that the other does not run; else the first is timed alone.
    """
    result = _compared(one, other, effort, progress, notes, needed=needed)
    if not any(comparison.is_small for comparison in result.comparisons):
        return result
    progress.note("a small difference: it is measured again in new processes")
    again = _compared(one, other, effort, progress, notes, needed=True)
    pairs = zip(result.comparisons, again.comparisons, strict=True)
    return replace(result, comparisons=[first.with_(second) for first, second in pairs])


def _compared(
    one: Order,
    other: Order,
    effort: Effort,
    progress: Progress,
    notes: Sequence[str],
    *,
    needed: bool,
) -> Bench:
    with contextlib.ExitStack() as stack:
        first = _started(stack, one, progress)
        try:
            second = _started(stack, other, progress)
        except CompilekitError as error:
            if not isinstance(error, RecipeError | WorkerError):  # these say where it is
                error.args = (f"{other.name}: {error}",)
            if needed:
                raise
            why = str(error).partition("\n")[0]
            return measured(first, None, one.batches, effort, progress, (f"not compared: {why}",))
        return measured(first, second, one.batches, effort, progress, notes)


def measured(
    first: Runner,
    second: Runner | None,
    batches: Sequence[int],
    effort: Effort,
    progress: Progress,
    notes: Sequence[str] = (),
) -> Bench:
    """Time variants in one batch after the other: two in turn, or one alone."""
    comparisons = []
    runners = [first] if second is None else [first, second]
    for batch in batches:
        how = f"{effort.runs} runs" if second is None else f"{first.name} beside {second.name}"
        title = f"a batch of {batch}, {how}"
        with progress.stage(title):
            firsts = [runner.ask({"batch": batch}) for runner in runners]
            if second is None:
                for _ in range(effort.runs):
                    first.turn()
            else:
                said = _Aloud(effort, lambda text: progress.say(title, text))  # noqa: B023
                comparisons.append(in_turn(first, second, batch, effort, said))
            for runner, once in zip(runners, firsts, strict=True):
                runner.add_row(batch, once)
    against = None if second is None else second.bench(effort.runs)
    return first.bench(effort.runs, against=against, comparisons=comparisons, notes=notes)


def in_turn(
    one: Runner,
    other: Runner,
    batch: int,
    effort: Effort,
    is_enough: Callable[[Sequence[float]], bool],
) -> Comparison:
    """Let two variants take turns until it is clear which is faster, or time is over."""
    for runner in (one, other):  # the first turn warms up
        runner.turn()
        runner.turns.clear()
    ratios = ratios_in_turn(
        one.turn,
        other.turn,
        least=effort.runs,
        most=max(effort.runs, MOST),
        seconds=effort.seconds,
        is_enough=is_enough,
    )
    return Comparison(batch, len(ratios), pace_of(ratios))


@dataclass(frozen=True)
class _Aloud:
    """Says how far a comparison is, whenever it is asked whether that is enough.

    It is not before some time is over, so that no short disturbance decides.
    """

    effort: Effort
    say: Callable[[str], None]
    start: float = field(default_factory=time.perf_counter)

    def __call__(self, ratios: Sequence[float]) -> bool:
        pace = pace_of(ratios)
        self.say(
            f"{len(ratios)} pairs, {pace.ratio:.2f} of the time ({pace.low:.2f} to {pace.high:.2f})"
        )
        is_long = time.perf_counter() - self.start >= PATIENCE * self.effort.seconds
        return is_long and self.effort.is_enough(ratios)


def _started(stack: contextlib.ExitStack, order: Order, progress: Progress) -> Runner:
    """Start the process of a variant, and let it load and apply."""
    title = f"{order.name}: load, apply and verify"
    with progress.stage(title), contextlib.ExitStack() as own:
        worker, request = own.enter_context(_process(order, lambda text: progress.say(title, text)))
        runner = Runner(order.name, worker.ask, worker.ask(request))
        stack.push(own.pop_all())  # one that failed is ended here
        return runner


@contextlib.contextmanager
def _process(order: Order, say: Callable[[str], None]) -> Iterator[tuple[Worker, dict[str, Any]]]:
    """A worker, and the request that makes its variant."""
    with tempfile.TemporaryDirectory(prefix="compilekit-bench-") as folder:
        file = Path(folder) / "order.pickle"
        file.write_bytes(pickle.dumps(order))
        request = {"path": sys.path, "cwd": str(Path.cwd()), "file": str(file)}
        with Worker(
            WORKER,
            python=sys.executable,
            folder=folder,
            key=order.name,
            say=say,
            # A file in the current folder must not shadow a module that the worker imports.
            environment={"PYTHONSAFEPATH": "1"},
        ) as worker:
            yield worker, request
