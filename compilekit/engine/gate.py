"""The budgets: of a single step, and the recipe's `verify:` for the finished model."""

from __future__ import annotations

from compilekit.errors import VerificationError
from compilekit.plugin.steps import PlannedStep
from compilekit.recipe import Verify
from compilekit.report import Measurement, Report

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


def broken_budgets(verify: Verify, report: Report) -> list[str]:
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
    return problems
