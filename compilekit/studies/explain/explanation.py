"""The result of `explain`, with its text. Light: no torch."""

from __future__ import annotations

from compilekit.studies.explain.data import Findings
from compilekit.studies.explain.text import lines


class Explanation(Findings):
    """What `explain` found: `steps`, what the sample `calls`, `shapes`, and broken budgets.

    compiles: whether a step of the recipe compiles anything.
    untimed: why no times were compared; empty if they were.
    problems: why `apply` would stop at the end: the recipe's own budgets.
    report: the numbers of the run, as `apply` gives them.

    >>> import compilekit as ck
    >>> import torch
    >>> net, recipe = torch.nn.Linear(8, 8), ck.Recipe.from_steps("precision{dtype=float32}")
    >>> inputs = {"input": torch.ones(1, 8)}
    >>> ck.explain(recipe, net, inputs=inputs, progress=False).steps[0].matched
    2
    """

    def to_json(self) -> str:
        """The explanation as JSON text."""
        return self.model_dump_json(indent=2, fallback=str) + "\n"

    def __repr__(self) -> str:
        return f"<Explanation of {len(self.steps)} steps>"

    def __str__(self) -> str:
        """The explanation as text for a terminal."""
        return "\n".join(lines(self))
