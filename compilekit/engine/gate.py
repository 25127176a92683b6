"""The budgets: of a single step, and the recipe's `verify:` for the finished model."""

from __future__ import annotations

from collections.abc import Iterator

from compilekit.base.words import Purpose
from compilekit.errors import VerificationError
from compilekit.plugin.steps import PlannedStep
from compilekit.recipe import Verify
from compilekit.report import Measurement, Report, Speed
from compilekit.report.verdict import MARGIN, blame

ROUNDING = 1.5
"""How much a step may increase an existing error: rounding once more is no fault."""


def over_budget(budget: float, measured: Measurement, error_before: float) -> bool:
    """Whether a step moved an entry point too far, and not towards the reference."""
    allowed = budget + ROUNDING * error_before
    return not (measured.change <= budget or measured.error <= allowed)


def check_step(step: PlannedStep, who: str, measured: Measurement, error_before: float) -> None:
    """Raise if a step moved an entry point by more than its budget."""
    if not over_budget(step.budget, measured, error_before):
        return
    raise VerificationError(
        f"{who} moved {measured.entry} by {measured.change:.2g} (relative L2); its budget is "
        f"{step.budget:.2g}. The error against the reference went from {error_before:.2g} "
        f"to {measured.error:.2g}. To accept that, set `budget:` on the step"
    )


LEAST_SPEEDUP: dict[Purpose, float] = {"apply": 0.0, "build": 1.0}
"""The `min_speedup` of a recipe that sets none."""


def broken_budgets(verify: Verify, report: Report, purpose: Purpose) -> list[str]:
    """The budgets of `verify:` that the finished model breaks, one sentence each."""
    problems = [
        f"{m.entry}: relative error {m.error:.2g} is over max_relative_error "
        f"{verify.max_relative_error:.2g}"
        for m in report.final
        if verify.max_relative_error is not None and m.error > verify.max_relative_error
    ]
    images = report.end_to_end
    for name, floor in (("psnr", verify.min_psnr), ("ssim", verify.min_ssim)):
        if floor is None:
            continue
        value = None if images is None else getattr(images, name)
        if value is None:
            problems.append(f"min_{name} is set, and the sample gives no images to compare")
        elif not value >= floor:
            problems.append(f"{name} of the images is {value:.4g}, under min_{name} {floor:.4g}")
    return [*problems, *_too_slow(verify, report, purpose)]


def _too_slow(verify: Verify, report: Report, purpose: Purpose) -> Iterator[str]:
    """The entry points that are surely not as fast as `min_speedup` asks for."""
    least = LEAST_SPEEDUP[purpose] if verify.min_speedup is None else verify.min_speedup
    speeds = [] if report.verdict is None else report.verdict.entries
    if verify.min_speedup and not speeds:
        yield "min_speedup is set, and speed could not be measured"
    compiled = [speed for speed in speeds if speed.compiled]
    # A recipe that compiles nothing, and sets a bound, means all that it was timed for.
    for speed in compiled or (speeds if verify.min_speedup is not None else []):
        if speed.high * (1 + MARGIN) < least:
            yield _slow(speed, least, report)


def _slow(speed: Speed, least: float, report: Report) -> str:
    why = "" if report.verdict is None else blame(report.verdict)
    return (
        f"{speed.entry} is {speed.speedup:.2f}x as fast as loaded ({speed.low:.2f}x to "
        f"{speed.high:.2f}x), and min_speedup is {least:g}.{f' {why}.' if why else ''} "
        "`verify: {min_speedup: 0}` allows a slower model"
    )
