"""Every error that compilekit raises on purpose.

CompilekitError                 exit code of the command line: 1
├── UsageError                  2   a call or command that makes no sense
├── RecipeError                 2   the recipe is wrong; carries every problem found
├── ModelError                  2   the recipe does not fit this model
├── PluginError                 2   a plugin is broken or missing
│   ├── PluginLoadError             it could not be loaded
│   └── PluginContractError         it loaded, and breaks a hook's contract
├── StepError                   1   a step failed while it ran
│   ├── SymbolicShapeError          it compiles for fixed sizes alone
│   ├── NoMatchError                it matched nothing
│   ├── WorkerError                 a process that does its work crashed, hung or talked nonsense
│   └── ClaimError                  its effects are not the ones it claims
├── VerificationError           1   the numbers are out of budget
│   └── NonFiniteError              an output holds NaN or infinity
├── SaveError                   1   saving now would write a folder that loads wrong
├── BundleError                 1   a bundle is damaged, or is none
│   ├── MismatchError           3   it was built for another machine
│   ├── SignatureError          1   it is not signed by a trusted key as it is
│   ├── UncoveredCallError      1   a call that nothing in it was compiled for
│   └── SealedError             1   a change that compiled code would not see
└── MachineError                3   this machine cannot do it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path


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


class RunReport(Protocol):
    """What was measured before a run failed: a `compilekit.Report`."""

    def to_json(self) -> str:
        """The report as JSON text."""

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""


class CompilekitError(Exception):
    """The root: catch this to catch everything that compilekit raises on purpose.

    report: what was measured before a run failed, if a run did.
    step: the position of the step that failed, if one did.
    repro: the folder with what it takes to run the failing step again.

    >>> import compilekit as ck
    >>> try:
    ...     ck.plan(ck.Recipe.from_steps("chanels_last"))
    ... except ck.CompilekitError as error:
    ...     print(error.exit_code)
    2
    """

    exit_code = 1
    report: RunReport | None = None
    step: int | None = None
    repro: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """The error as plain data, to cross to another process; `from_dict` reads it."""
        return {"class": type(self).__name__, "message": str(self)}


class UsageError(CompilekitError):
    """A call or a command line that makes no sense.

    >>> import compilekit as ck
    >>> ck.apply(ck.Recipe.from_steps("precision{dtype=bfloat16}"), 3, progress=False)
    Traceback (most recent call last):
    compilekit.errors.UsageError: int is neither a diffusers pipeline nor an nn.Module
    """

    exit_code = 2


class RecipeError(CompilekitError):
    """The recipe is wrong. `problems` holds everything that was found, in file order.

    >>> import compilekit as ck
    >>> try:
    ...     ck.plan(ck.Recipe.from_steps("chanels_last"))
    ... except ck.RecipeError as error:
    ...     print(error.problems[0].message)
    no plugin brings a step "chanels_last". Did you mean "channels_last"?
    """

    exit_code = 2

    def __init__(self, problems: Sequence[Problem], advice: str = "") -> None:
        self.problems = tuple(sorted(problems))
        self.advice = advice
        lines = [str(problem) for problem in self.problems]
        super().__init__("\n".join([*lines, advice] if advice else lines))

    def to_dict(self) -> dict[str, Any]:
        """The error as plain data, with its problems."""
        problems = [asdict(problem) for problem in self.problems]
        return {**super().to_dict(), "problems": problems, "advice": self.advice}


class ModelError(CompilekitError):
    """The recipe does not fit this model: a component that it lacks, say.

    >>> import compilekit as ck
    >>> import torch
    >>> net, recipe = torch.nn.Linear(8, 8), ck.Recipe.from_steps("precision{dtype=bfloat16}")
    >>> try:
    ...     ck.apply(recipe, net, inputs={"input": torch.ones(1, 3)}, progress=False)
    ... except ck.ModelError as error:
    ...     print(type(error.__cause__).__name__)
    RuntimeError
    """

    exit_code = 2


class PluginError(CompilekitError):
    """A plugin is broken or missing. The message names it and its distribution.

    >>> import compilekit as ck
    >>> try:
    ...     ck.load_host().describe("precison")
    ... except ck.PluginError as error:
    ...     print(error)
    no plugin brings a step "precison". Did you mean "precision"?
    """

    exit_code = 2


class PluginLoadError(PluginError):
    """A plugin could not be loaded; raised only when a recipe uses it.

    >>> import compilekit as ck
    >>> try:
    ...     ck.load_host(["nosuch.py"])
    ... except ck.PluginLoadError as error:
    ...     print(error)
    plugin nosuch.py: no such file
    """


class PluginContractError(PluginError):
    """A plugin breaks a hook's contract: it returned the wrong thing, say.

    >>> import compilekit as ck
    >>> issubclass(ck.PluginContractError, ck.PluginError)
    True
    """


class StepError(CompilekitError):
    """A step failed while it ran.

    >>> import compilekit as ck
    >>> import torch
    >>> net = torch.nn.Linear(8, 8)
    >>> recipe = ck.Recipe.from_steps("torch_compile{components=model, backend=no}")
    >>> try:
    ...     ck.apply(recipe, net, inputs={"input": torch.ones(1, 8)}, progress=False)
    ... except ck.StepError as error:
    ...     print(str(error).split(":")[0])
    steps[0].torch_compile.backend
    """


class NoMatchError(StepError):
    """A step matched nothing, and the recipe does not say `allow_no_match: true`.

    >>> import compilekit as ck
    >>> import torch
    >>> net, recipe = torch.nn.Linear(8, 8), ck.Recipe.from_steps("channels_last{components=model}")
    >>> try:
    ...     ck.apply(recipe, net, inputs={"input": torch.ones(1, 8)}, progress=False)
    ... except ck.NoMatchError as error:
    ...     print("matched nothing" in str(error))
    True
    """


class WorkerError(StepError):
    """A process that does a step's work crashed, hung, or gave no valid answer.

    code: its exit code, negative for a signal; None if it had not ended.
    timed_out: whether it was ended because its time was over.
    printed: the last lines that it printed.

    >>> import compilekit as ck
    >>> import sys
    >>> try:
    ...     ck.run_worker("no-such-package", {}, python=sys.executable, folder=".")
    ... except ck.WorkerError as error:
    ...     print(error.timed_out)
    False
    """

    code: int | None = None
    timed_out: bool = False
    printed: tuple[str, ...] = ()


class ClaimError(StepError):
    """What a step did to the model is not what its description claims.

    >>> import compilekit as ck
    >>> issubclass(ck.ClaimError, ck.StepError)
    True
    """


class SymbolicShapeError(StepError):
    """Raised by `export` where the code at hand fixes a dimension that was to be symbolic.

    The build goes on with one part for each size.

    >>> import compilekit as ck
    >>> issubclass(ck.SymbolicShapeError, ck.StepError)
    True
    """


class VerificationError(CompilekitError):
    """The numbers are out of budget.

    >>> import compilekit as ck
    >>> import torch
    >>> net = torch.nn.Linear(8, 8)
    >>> recipe = ck.Recipe.from_steps("precision{dtype=bfloat16, budget=1e-9}")
    >>> try:
    ...     ck.apply(recipe, net, inputs={"input": torch.ones(1, 8)}, progress=False)
    ... except ck.VerificationError as error:
    ...     print(error.report.steps[0].name)
    precision
    """


class NonFiniteError(VerificationError):
    """An output holds NaN or infinity.

    >>> import compilekit as ck
    >>> issubclass(ck.NonFiniteError, ck.VerificationError)
    True
    """


class SaveError(CompilekitError):
    """Saving now would write a folder that loads wrong.

    >>> import compilekit as ck
    >>> ck.SaveError.exit_code
    1
    """


class BundleError(CompilekitError):
    """A bundle is damaged, or is none. The message names the file or field at fault.

    >>> import compilekit as ck
    >>> try:
    ...     ck.load("nosuch")
    ... except ck.BundleError as error:
    ...     print(error)
    nosuch: no such folder
    """


class MismatchError(BundleError):
    """The bundle was built for another machine; the message goes field by field.

    >>> import compilekit as ck
    >>> ck.MismatchError.exit_code
    3
    """

    exit_code = 3


class SignatureError(BundleError):
    """A bundle is not signed by a trusted key, or not as it is now.

    >>> import compilekit as ck
    >>> issubclass(ck.SignatureError, ck.BundleError)
    True
    """


class UncoveredCallError(BundleError):
    """A call that nothing in the bundle was compiled for; the message names what was.

    >>> import compilekit as ck
    >>> issubclass(ck.UncoveredCallError, ck.BundleError)
    True
    """


class SealedError(BundleError):
    """A change to a loaded bundle that compiled code would not see.

    >>> import compilekit as ck
    >>> issubclass(ck.SealedError, ck.BundleError)
    True
    """


class MachineError(CompilekitError):
    """This machine cannot do it: a package, a device or a driver is missing.

    >>> import compilekit as ck
    >>> ck.MachineError.exit_code
    3
    """

    exit_code = 3


def from_dict(data: dict[str, Any]) -> CompilekitError:
    """The error that `to_dict` described."""
    known = {kind.__name__: kind for kind in _kinds(CompilekitError)}
    kind = known.get(data["class"], CompilekitError)
    if issubclass(kind, RecipeError):
        problems = [
            Problem(Location(**each["location"]), each["key"], each["message"])
            for each in data["problems"]
        ]
        return kind(problems, data["advice"])
    return kind(data["message"])


def _kinds(kind: type[CompilekitError]) -> list[type[CompilekitError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in _kinds(child))]
