"""The result of `tune`, with its text. Light: no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compilekit.base.texts import printable
from compilekit.errors import UsageError
from compilekit.plan.plan import Plan
from compilekit.recipe import Recipe
from compilekit.recipe.emit import recipe_to_yaml
from compilekit.studies.tune.data import Facts, Trial
from compilekit.studies.tune.text import lines, sentence, title


@dataclass(frozen=True, repr=False)
class Tuned:
    """What `tune` found. `print` shows the trials as a table.

    plan: the fastest recipe, checked; without steps if nothing is faster.
    best: its trial; None if nothing is faster.
    trials: everything that was tried, in order.
    facts: the model as loaded.
    comments: what each step of the recipe gained, by its place.
    left_out: what was not tried, and why.

    >>> import compilekit as ck
    >>> ck.Tuned.__name__
    'Tuned'
    """

    plan: Plan
    best: Trial | None
    trials: Sequence[Trial]
    facts: Facts
    comments: dict[int, str]
    left_out: Sequence[str] = ()

    @property
    def recipe(self) -> Recipe:
        """The fastest recipe."""
        return self.plan.recipe

    @property
    def verdict(self) -> str:
        """How much faster it is, in words."""
        return sentence(self.best, self.facts)

    def to_yaml(self) -> str:
        """The recipe as a file: with comments that say what each step gained."""
        return recipe_to_yaml(self.recipe, title(self.best, self.facts), self.comments)

    def save(self, path: str | Path) -> None:
        """Write the recipe."""
        try:
            Path(path).write_text(self.to_yaml(), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{path}: cannot be written: {error.strerror}") from error

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "verdict": self.verdict,
            "recipe": self.to_yaml(),
            "best": None if self.best is None else self.best.model_dump(mode="json"),
            "trials": [trial.model_dump(mode="json") for trial in self.trials],
            "as_loaded": self.facts.model_dump(mode="json"),
            "left_out": list(self.left_out),
        }

    def to_json(self) -> str:
        """The same as JSON text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def __repr__(self) -> str:
        return f"<Tuned {printable(self.recipe.name)}: {self.verdict}>"

    def __str__(self) -> str:
        """The verdict, the trials, and what was not tried."""
        return "\n".join(lines(self.best, self.facts, self.trials, self.left_out))
