"""An explanation as text: a paragraph for each step, then what the sample calls."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from compilekit.base.bytesize import size
from compilekit.base.columns import aligned
from compilekit.report.verdict import sentence
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


VARIES = "cannot be told here: it changes time alone, if anything, and the times vary too much"
"""An untold step that was timed."""


def lines(findings: Findings) -> Iterator[str]:
    """The whole text."""
    count = len(findings.steps)
    if findings.report.verdict is not None:
        yield sentence(findings.report.verdict)
    yield f"{findings.recipe} on {findings.device}: {count} step{'s' * (count != 1)}"
    if findings.untimed:
        yield f"times were not compared: {findings.untimed}"
    for step in findings.steps:
        yield f"{step.key}: {_meaning(step)}"
        yield from (f"  {line}" for line in _step(step))
    yield from _calls(findings)
    for shape in findings.shapes:
        if shape.error:
            yield f"with {shape.shape} the sample does not run: {shape.error}"
    yield from (f"apply would stop at the end: {problem}" for problem in findings.problems)
    yield from (f"warning: {warning}" for warning in findings.report.warnings)
    yield from (f"advice: {advice}" for advice in findings.report.advice)


def _meaning(step: ExplainedStep) -> str:
    if step.verdict == "untold" and any(t.verdict == "untold" and t.ratio for t in step.timings):
        return VARIES
    return MEANS.get(step.verdict, step.verdict)


def _step(step: ExplainedStep) -> Iterator[str]:
    yield f"changed {step.changed} of {step.matched} ({', '.join(step.changes)}); {_bytes(step)}"
    yield from _outputs(step)
    than = " than uncompiled" if "compiled" in step.changes else ""
    yield from (_time(timing, than) for timing in step.timings)
    for call in step.working:
        if call.is_other:
            yield f"{call.entry}: a call takes {size(call.after)}, {size(call.before)} before"
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
    changes = ", ".join(f"{m.entry} by {m.change:.1e}" for m in step.moved if m.change)
    rounding = ", no more than rounding" if all(m.rounding for m in step.moved) else ""
    text = f"moved {changes}{rounding}" if changes else "outputs are the same to the bit"
    yield f"{text}; budget {step.budget:g}"


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
    if timing.verdict == "untold":
        span = f"{timing.low:.2f} to {timing.high:.2f} of the time {before}"
        return f"{name}: cannot be told here: its times vary too much ({span}){several}"
    if timing.verdict == "noise":
        span = f"{timing.low:.2f} to {timing.high:.2f} of the time {before}"
        return f"{name}: as fast as {before}, within noise ({span}){several}"
    if timing.verdict == "faster":
        span = f"{1 / timing.high:.2f}x to {1 / timing.low:.2f}x"
        return f"{name}: {1 / timing.ratio:.2f}x faster{than} ({span}){several}"
    span = f"{timing.low:.2f}x to {timing.high:.2f}x"
    return f"{name}: {timing.ratio:.2f}x slower{than} ({span}){several}"


def _recompiles(recompiles: Sequence[Recompile]) -> Iterator[str]:
    for cause in dict.fromkeys(recompile.cause for recompile in recompiles):
        yield from _group(
            f"recompiles by {cause}", [r.what for r in recompiles if r.cause == cause]
        )


def _skipped(groups: Sequence[Skipped]) -> Iterator[str]:
    if groups:
        yield f"left alone: {sum(len(group.names) for group in groups)}"
    for group in groups:
        more = len(group.names) - NAMES
        names = ", ".join(group.names[:NAMES]) + (f" and {more} more" if more > 0 else "")
        yield f"  {len(group.names)}: {group.reason} ({names})"


def _group(title: str, items: Sequence[str]) -> Iterator[str]:
    if items:
        yield f"{title}: {len(items)}"
        yield from (f"  {item}" for item in items)


def _calls(findings: Findings) -> Iterator[str]:
    if len(findings.calls) < 2:  # noqa: PLR2004 - it has all of the time
        return
    yield "the sample calls"
    rows = []
    for called in findings.calls:
        numbers = ", ".join(re.findall(r"steps\[(\d+)\]", " ".join(called.steps)))
        note = f"steps {numbers}" if numbers else "no step works on it"
        if findings.compiles and not called.compiled:
            note += "; nothing compiles it"
        times = f"{called.calls} call{'s' * (called.calls != 1)} in {called.ways} way"
        times += "s" * (called.ways != 1)
        rows.append((called.entry, f"{called.share:4.0%} of the time, {times}: {note}"))
    rest = max(0.0, 1 - sum(called.share for called in findings.calls))
    rows.append(("elsewhere", f"{rest:4.0%} of the time"))
    yield from aligned(rows, indent=2)


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return "; ".join(str(item) for item in value) or "none"
    return str(value)
