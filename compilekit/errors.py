"""Every error that compilekit raises on purpose.

CompilekitError                 exit code of the command line: 1
├── UsageError                  2   a call or command that makes no sense
├── RecipeError                 2   the recipe is wrong; carries every problem found
├── ModelError                  2   the recipe does not fit this model
├── PluginError                 2   a plugin is broken or missing
│   ├── PluginLoadError             it could not be loaded
│   └── PluginContractError         it loaded, and breaks a hook's contract
├── StepError                   1   a step failed while it ran
│   ├── NoMatchError                it matched nothing
│   └── ClaimError                  its effects are not the ones it claims
├── VerificationError           1   the numbers are out of budget
│   └── NonFiniteError              an output holds NaN or infinity
├── SaveError                   1   saving now would write a folder that loads wrong
└── MachineError                3   this machine cannot do it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compilekit.report import Report


@dataclass(frozen=True, order=True)
class Location:
    """A place in a recipe file. Lines and columns count from 1.

    >>> str(Location("serve.yaml", 14, 27))
    'serve.yaml:14:27'
    """

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        if not self.line:
            return self.file
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong in a recipe: where, in which key, and what to do.

    >>> str(Problem(Location("serve.yaml", 3, 1), "tagret", "unknown key"))
    'serve.yaml:3:1: tagret: unknown key'
    """

    location: Location
    key: str
    message: str

    def __str__(self) -> str:
        key = f" {self.key}:" if self.key else ""
        return f"{self.location}:{key} {self.message}"


class CompilekitError(Exception):
    """The root: catch this to catch everything that compilekit raises on purpose.

    report: what was measured before a run failed, if a run did.

    >>> import compilekit as ck
    >>> try:
    ...     ck.plan(ck.Recipe.from_steps("chanels_last"))
    ... except ck.CompilekitError as error:
    ...     print(error.exit_code)
    2
    """

    exit_code = 1
    report: Report | None = None


class UsageError(CompilekitError):
    """A call or a command line that makes no sense.

    >>> import compilekit as ck
    >>> ck.apply(ck.Recipe.from_steps("precision{dtype=bfloat16}"), 3, progress=False)
    Traceback (most recent call last):
    compilekit.errors.UsageError: int is neither a diffusers pipeline nor an nn.Module
    """

    exit_code = 2


class RecipeError(CompilekitError):
    """The recipe is wrong. `problems` holds everything that was found, in file order."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem], advice: str = "") -> None:
        self.problems = tuple(sorted(problems))
        self.advice = advice
        lines = [str(problem) for problem in self.problems]
        super().__init__("\n".join([*lines, advice] if advice else lines))


class ModelError(CompilekitError):
    """The recipe does not fit this model: a component that it lacks, say."""

    exit_code = 2


class PluginError(CompilekitError):
    """A plugin is broken or missing. The message names it and its distribution."""

    exit_code = 2


class PluginLoadError(PluginError):
    """A plugin could not be loaded; raised only when a recipe uses it."""


class PluginContractError(PluginError):
    """A plugin breaks a hook's contract: it returned the wrong thing, say."""


class StepError(CompilekitError):
    """A step failed while it ran."""


class NoMatchError(StepError):
    """A step matched nothing, and the recipe does not say `allow_no_match: true`."""


class ClaimError(StepError):
    """What a step did to the model is not what its description claims."""


class VerificationError(CompilekitError):
    """The numbers are out of budget."""


class NonFiniteError(VerificationError):
    """An output holds NaN or infinity."""


class SaveError(CompilekitError):
    """Saving now would write a folder that loads wrong."""


class MachineError(CompilekitError):
    """This machine cannot do it: a package, a device or a driver is missing."""

    exit_code = 3
