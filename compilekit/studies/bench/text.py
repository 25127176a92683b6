"""A benchmark as text: the verdict in words first, then a table, then how it was measured."""

from __future__ import annotations

from collections.abc import Iterator

from compilekit.base.bytesize import size
from compilekit.base.columns import aligned
from compilekit.base.texts import printable
from compilekit.studies.bench.data import FEWEST, BenchRow, Comparison, Figures

AS_LOADED = "the model as loaded"
COLUMNS = ("batch", "{}", "first run", "seconds a run", "from", "to", "{}/s", "peak memory")


def lines(bench: Figures) -> list[str]:
    """The text of a benchmark."""
    return list(_alone(bench) if bench.against is None else _compared(bench, bench.against))


def _alone(bench: Figures) -> Iterator[str]:
    header = tuple(column.format(bench.unit) for column in COLUMNS)
    yield from aligned([header, *map(_cells, bench.rows)])
    yield (
        f"{printable(bench.recipe)} on {bench.device}: medians of {bench.runs} runs; steps and "
        f"their verification took {bench.setup:.3g} s{''.join(f'; {n}' for n in bench.notes)}"
    )


def _compared(bench: Figures, other: Figures) -> Iterator[str]:
    yield from (verdict(bench, comparison) for comparison in bench.comparisons)
    header = ("", *(column.format(bench.unit) for column in COLUMNS))
    rows = [
        (each.recipe, *_cells(row))
        for pair in zip(bench.rows, other.rows, strict=True)
        for each, row in zip((bench, other), pair, strict=True)
    ]
    yield from aligned([header, *rows])
    for each in (bench, other):
        yield f"{printable(each.recipe)}: {_first_image(each)}"
    pairs = ", ".join(str(comparison.pairs) for comparison in bench.comparisons)
    devices = " and ".join(dict.fromkeys((bench.device, other.device)))
    yield f"on {devices}, each in a process of its own, in turn: {pairs} pairs of turns"
    yield from bench.notes


def _first_image(bench: Figures) -> str:
    first = bench.rows[0].first
    told = bench.compiling
    compiling = "" if told is None else f" ({told:.3g} s of them to compile)"
    verifying = max(0.0, bench.setup - bench.steps)
    verified = f"; verification took {verifying:.3g} s more"
    return (
        f"first {bench.unit.removesuffix('s')} after {bench.first_image:.3g} s: "
        f"{bench.load:.3g} s to load, {bench.steps:.3g} s for the steps{compiling}, "
        f"{first:.3g} s to run{verified}"
    )


def _cells(row: BenchRow) -> tuple[str, ...]:
    times = (row.first, row.seconds, row.least, row.most, row.rate)
    return (
        str(row.batch),
        str(row.images),
        *(f"{value:.3g}" for value in times),
        size(row.peak),
    )


def verdict(bench: Figures, comparison: Comparison) -> str:
    """Which of the two is faster in a batch, by how much, and how sure that is."""
    other = "" if bench.against is None else bench.against.recipe
    one, pace = printable(bench.recipe), comparison.pace
    other, where = printable(other), "" if comparison.batch == 1 else f", {_batch(comparison)}"
    quicker = f"({1 / pace.high:.2f}x to {1 / pace.low:.2f}x)"
    if comparison.verdict == "faster":
        return f"{one} is {1 / pace.ratio:.2f}x faster than {other} {quicker}{where}"
    if comparison.verdict == "slower":
        slower = f"({pace.low:.2f}x to {pace.high:.2f}x)"
        return f"{one} is {pace.ratio:.2f}x SLOWER than {other} {slower}{where}"
    if comparison.verdict == "noise":
        return f"no measurable difference between {one} and {other} {quicker}{where}"
    why = "its times vary too much here"
    if comparison.pairs < FEWEST:
        why = f"it needs {FEWEST} pairs of turns, and had {comparison.pairs}"
    return f"which of {one} and {other} is faster cannot be told: {why} {quicker}{where}"


def too_slow(bench: Figures, limit: float) -> list[str]:
    """Where the recipe is slower than a limit allows, for sure: the whole interval is beyond."""
    found = []
    for comparison in bench.comparisons:
        pace = comparison.pace
        if comparison.pairs >= FEWEST and pace.low > 1 + limit and bench.against is not None:
            found.append(
                f"{_batch(comparison)}, {printable(bench.recipe)} takes {pace.ratio:.2f}x the time "
                f"of {printable(bench.against.recipe)} ({pace.low:.2f}x to {pace.high:.2f}x), and "
                f"at most {1 + limit:.4g}x is allowed"
            )
    return found


def _batch(comparison: Comparison) -> str:
    return f"in a batch of {comparison.batch}"
