"""All errors that compilekit raises on purpose.

CompilekitError                 exit code of the command line: 1
├── UsageError                  2   a wrong call or command line
├── RecipeError                 2   the recipe is wrong; carries every problem found
├── ModelError                  2   the recipe does not fit this model
├── PluginError                 2   a plugin is broken or missing
│   ├── PluginLoadError             it could not be loaded
│   └── PluginContractError         it breaks the contract of a hook
├── StepError                   1   a step failed while it ran
│   ├── SymbolicShapeError          it compiles for fixed sizes only
│   ├── NoMatchError                it matched nothing
│   ├── WorkerError                 its worker process crashed, hung or gave no valid answer
│   └── ClaimError                  its effects differ from its description
├── VerificationError           1   the numbers are out of budget
│   └── NonFiniteError              an output holds NaN or infinity
├── SaveError                   1   saving now would write a folder that loads wrong
├── BundleError                 1   a bundle is damaged, or the folder is not a bundle
│   ├── MismatchError           3   it was built for another machine
│   ├── SignatureError          1   no trusted key signed it as it is now
│   ├── UncoveredCallError      1   a call whose sizes were not compiled
│   └── SealedError             1   a change that compiled code does not see
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
    """One mistake in a recipe: where it is, in which key, and what to do.

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
    """The base class of all errors that compilekit raises on purpose.

    report: the measurements before the failure, if a run failed.
    step: the position of the step that failed, if a step failed.
    repro: the reproducer's folder, from which the failing step can run again.

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
    """A wrong call or command line.

    >>> import compilekit as ck
    >>> ck.apply(ck.Recipe.from_steps("precision{dtype=bfloat16}"), 3, progress=False)
    Traceback (most recent call last):
    compilekit.errors.UsageError: int is neither a diffusers pipeline nor an nn.Module
    """

    exit_code = 2


class RecipeError(CompilekitError):
    """The recipe is wrong. `problems` holds all mistakes, in the order of the file.

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
    """The recipe does not fit this model: for example, it names a component that is missing.

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
    """A plugin could not be loaded. Raised only if a recipe uses the plugin.

    >>> import compilekit as ck
    >>> try:
    ...     ck.load_host(["nosuch.py"])
    ... except ck.PluginLoadError as error:
    ...     print(error)
    plugin nosuch.py: no such file
    """


class PluginContractError(PluginError):
    """A plugin breaks the contract of a hook: for example, it returns a wrong object.

    >>> import compilekit as ck
    >>> host = ck.load_host()
    >>> try:
    ...     host.ask("precision", "check", lambda: 1 / 0)
    ... except ck.PluginContractError as error:
    ...     print(str(error).partition(": ")[2])
    check raised ZeroDivisionError: division by zero
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
    """A step changed the model in another way than its description claims.

    Its message names the change: "plugin prune (prune 0.1) changed dtype of unet.conv_in.weight,
    and claims to change only weights".

    >>> import compilekit as ck
    >>> ck.ClaimError("steps[0].prune: ...").exit_code
    1
    """


class SymbolicShapeError(StepError):
    """Raise it in `export` if the code fixes a dimension that should be symbolic.

    The build continues with one part per size.

    >>> import compilekit as ck
    >>> def export(context):
    ...     if any(context.symbols):
    ...         raise ck.SymbolicShapeError("this backend compiles one size at a time")
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
    >>> import torch
    >>> recipe = ck.Recipe.from_steps("precision{dtype=bfloat16}")
    >>> inputs = {"input": torch.full((1, 8), float("nan"))}
    >>> try:
    ...     ck.apply(recipe, torch.nn.Linear(8, 8), inputs=inputs, progress=False)
    ... except ck.NonFiniteError as error:
    ...     print(error)
    the model as loaded: model gives NaN or infinity (output)
    """


class SaveError(CompilekitError):
    """Saving now would write a folder that loads wrong; or a loaded bundle was copied or pickled.

    >>> import compilekit as ck
    >>> ck.SaveError.exit_code
    1
    """


class BundleError(CompilekitError):
    """A bundle is damaged, or a folder is not a bundle. The message names the file or field.

    >>> import compilekit as ck
    >>> try:
    ...     ck.load("nosuch")
    ... except ck.BundleError as error:
    ...     print(error)
    nosuch: no such folder
    """


class MismatchError(BundleError):
    """The bundle was built for another machine. The message lists the fields that differ.

    >>> import compilekit as ck
    >>> ck.MismatchError.exit_code
    3
    """

    exit_code = 3


class SignatureError(BundleError):
    """No trusted key signed the bundle, or it was changed after it was signed.

    To load only signed bundles, pass `trust=` to `load`, or set `COMPILEKIT_TRUST`.

    >>> import compilekit as ck
    >>> ck.SignatureError("dist: is not signed").exit_code
    1
    """


class UncoveredCallError(BundleError):
    """A call whose sizes were not compiled. The message lists the sizes that were.

    `load(..., on_uncovered="eager")` runs such calls in Python instead.

    >>> import compilekit as ck
    >>> ck.UncoveredCallError("unet: sample is float32[2, 4, 12, 12], ...").exit_code
    1
    """


class SealedError(BundleError):
    """A change to a loaded bundle that compiled code does not see.

    Apply the change before the bundle is built, and build again.

    >>> import compilekit as ck
    >>> ck.SealedError("unet.conv_in.weight was replaced, ...").exit_code
    1
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
            Problem(Location(**problem["location"]), problem["key"], problem["message"])
            for problem in data["problems"]
        ]
        return kind(problems, data["advice"])
    return kind(data["message"])


def _kinds(kind: type[CompilekitError]) -> list[type[CompilekitError]]:
    return [kind, *(descendant for child in kind.__subclasses__() for descendant in _kinds(child))]
