"""The sample in the other sizes of a recipe, and what was compiled again for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from compilekit.engine import Run
from compilekit.sizes import BATCH, resized_inputs, sized

RECOMPILES = "recompiles"
"""The key of a step's details that lists what was compiled again since the step ran."""


def run_shape(run: Run, changes: Mapping[str, int]) -> None:
    """Run the sample, or a plain module, in another size."""
    if run.model.is_pipeline:
        run.run_sample(sized(run.sample, changes))
        return
    with resized_inputs(run.model, changes[BATCH]):
        run.run_sample({})


def listed(details: Mapping[str, Any], key: str) -> list[str]:
    """The texts under a key of a step's details; nothing where it is used for something else."""
    found = details.get(key)
    return [str(each) for each in found] if isinstance(found, list | tuple) else []


def added(now: Sequence[str], before: Sequence[str]) -> list[str]:
    """What the first list has more of than the second."""
    return list((Counter(now) - Counter(before)).elements())
