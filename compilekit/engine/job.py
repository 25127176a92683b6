"""A job: everything that a run works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compilekit.base.progress import Progress
from compilekit.plan.plan import Plan
from compilekit.plugin.host import Host
from compilekit.subject.model import Model


@dataclass(frozen=True)
class Job:
    """A checked recipe, the model on its device, the plugins, the sample, and the progress.

    thorough: how many times more pairs of calls than usual the verdict on speed is made of.
    """

    plan: Plan
    model: Model
    host: Host
    sample: Mapping[str, Any]
    progress: Progress
    thorough: int = 1
