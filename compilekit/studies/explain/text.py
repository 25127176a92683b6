"""An explanation as text: a paragraph for each step, then what the sample calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from compilekit.base.bytesize import size
from compilekit.base.columns import aligned
from compilekit.studies.explain.data import ExplainedStep, Findings, Recompile, Skipped, Timing

NAMES = 3
"""How many names of a group are shown."""

MEANS = {
    "dead": "dead: it changes nothing that can be measured",
    "no gain": "no gain: compiled, and as fast as before",
    "changed": "changed, and as a whole no faster and no slower that can be told",
    "untold": "untold: it changes time alone, if anything, and that cannot be told yet",
    "unmatched": "matched nothing",
}


def lines(found: Findings) -> Iterator[str]:
    """The whole text."""
    count = len(found.steps)
    yield f"{found.recipe} on {found.device}: {count} step{'s' * (count != 1)}"
    if found.untimed:
        yield f"times were not compared: {found.untimed}"
    for step in found.steps:
        yield f"{step.key}: {MEANS.get(step.verdict, step.verdict)}"
        yield from (f"  {line}" for line in _step(step))
    yield from _calls(found)
    for shape in found.shapes:
        if shape.error:
            yield f"with {shape.shape} the sample does not run: {shape.error}"
    yield from (f"apply would stop at the end: {problem}" for problem in found.problems)
    yield from (f"warning: {warning}" for warning in found.report.warnings)


def _step(step: ExplainedStep) -> Iterator[str]:
    yield f"changed {step.changed} of {step.matched} ({', '.join(step.changes)}); {_bytes(step)}"
    yield from _outputs(step)
    than = " than uncompiled" if "compiled" in step.changes else ""
    yield from (_time(timing, than) for timing in step.timings)
    for each in step.working:
        if each.is_other:
            yield f"{each.entry}: a call takes {size(each.after)}, {size(each.before)} before"
    yield from _group("graph breaks", step.graph_breaks)
    yield from _recompiles(step.recompiles)
    yield from _skipped(step.skipped)
    if step.uncalled:
        yield f"the sample never calls {', '.join(step.uncalled)}, so nothing is known of that"
    for key, value in step.details.items():
        yield f"{key.replace('_', ' ')}: {_shown(value)}"
    yield from (f"apply would stop here: {problem}" for problem in step.problems)


def _bytes(step: ExplainedStep) -> str:
    if step.bytes_before == step.bytes_after:
        return f"weights {size(step.bytes_after)}, as before"
    return f"weights {size(step.bytes_after)}, {size(step.bytes_before)} before"


def _outputs(step: ExplainedStep) -> Iterator[str]:
    if not step.moved:
        if "results" in step.changes:
            same = step.verdict in ("dead", "unmatched")
            yield f"the sample's output is {'the same to the bit' if same else 'another'}"
        return
    moved = ", ".join(f"{each.entry} by {each.change:.1e}" for each in step.moved if each.change)
    budget = f"budget {step.budget:g}"
    if not moved:
        yield f"outputs are the same to the bit; {budget}"
    elif all(each.rounding for each in step.moved):
        yield f"moved {moved}, no more than rounding; {budget}"
    else:
        yield f"moved {moved}; {budget}"


def _time(timing: Timing, than: str) -> str:
    name = timing.entry
    if timing.ratio is None or timing.low is None or timing.high is None:
        if timing.later:
            return f"{name}: untold, since {timing.later} compiles it later; --leave-out tells it"
        return f"{name}: its time was not compared"
    several = f", together with {', '.join(timing.together)}" if timing.together else ""
    if timing.left_out:
        than, before = " than without this step, once compiled", "without it"
    else:
        than, before = "" if several else than, "before"
    if timing.verdict == "noise":
        span = f"{timing.low:.2f} to {timing.high:.2f} of the time {before}"
        return f"{name}: as fast as {before}, within noise ({span}){several}"
    if timing.verdict == "faster":
        span = f"{1 / timing.high:.2f}x to {1 / timing.low:.2f}x"
        return f"{name}: {1 / timing.ratio:.2f}x faster{than} ({span}){several}"
    span = f"{timing.low:.2f}x to {timing.high:.2f}x"
    return f"{name}: {timing.ratio:.2f}x slower{than} ({span}){several}"


def _recompiles(found: Sequence[Recompile]) -> Iterator[str]:
    causes = dict.fromkeys(each.cause for each in found)
    for cause in causes:
        what = [each.what for each in found if each.cause == cause]
        yield from _group(f"recompiles by {cause}", what)


def _skipped(found: Sequence[Skipped]) -> Iterator[str]:
    if not found:
        return
    yield f"left alone: {sum(len(each.names) for each in found)}"
    for each in found:
        more = len(each.names) - NAMES
        names = ", ".join(each.names[:NAMES]) + (f" and {more} more" if more > 0 else "")
        yield f"  {len(each.names)}: {each.reason} ({names})"


def _group(title: str, items: Sequence[str]) -> Iterator[str]:
    if items:
        yield f"{title}: {len(items)}"
        yield from (f"  {item}" for item in items)


def _calls(found: Findings) -> Iterator[str]:
    if len(found.calls) < 2:  # noqa: PLR2004 - it has all of the time
        return
    yield "the sample calls"
    rows = []
    for each in found.calls:
        steps = f"steps {', '.join(_number(key) for key in each.steps)}" if each.steps else ""
        bare = "nothing compiles it" if found.compiles and not each.compiled else ""
        note = "; ".join(filter(None, [steps or "no step works on it", bare]))
        times = f"{each.calls} call{'s' * (each.calls != 1)} in {each.ways} way"
        times += "s" * (each.ways != 1)
        rows.append((each.entry, f"{each.share:4.0%} of the time, {times}: {note}"))
    rest = max(0.0, 1 - sum(each.share for each in found.calls))
    rows.append(("elsewhere", f"{rest:4.0%} of the time"))
    yield from (f"  {line}" for line in aligned(rows))


def _number(key: str) -> str:
    return key.partition("]")[0].removeprefix("steps[")


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return "; ".join(str(item) for item in value) or "none"
    return str(value)
