"""The results of `load` and `build`, and the mark on what was loaded. Light: no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from compilekit.base.bytesize import size
from compilekit.base.texts import printable
from compilekit.bundle.files import WEIGHTS, total
from compilekit.bundle.fingerprint import Difference
from compilekit.bundle.manifest import Manifest
from compilekit.errors import SaveError, UsageError
from compilekit.report import Report

_ATTRIBUTE = "_compilekit_bundle"
_COPIERS = ("__deepcopy__", "__reduce_ex__")
"""What `copy` and `pickle` ask an object for."""


@dataclass
class Counts:
    """How many calls of an entry point ran compiled code, and how many ran eagerly.

    uncovered: the calls whose sizes were not compiled, by reason.
    """

    compiled: int = 0
    eager: int = 0
    uncovered: dict[str, int] = field(default_factory=dict)


@dataclass(repr=False)
class Loaded:
    """A loaded bundle; `bundle_of(pipeline)` returns it.

    differences: how this machine differs from the one that built the bundle.
    eager: whether it runs without its compiled code, because that does not fit this machine.
    entries: the counts of each compiled entry point.

    >>> import compilekit as ck
    >>> ck.Loaded.__name__
    'Loaded'
    """

    folder: Path
    manifest: Manifest
    differences: list[Difference]
    eager: bool
    entries: dict[str, Counts] = field(default_factory=dict)

    def __repr__(self) -> str:
        state = ", without its compiled code" if self.eager else ""
        return f"<Loaded {printable(str(self.folder))}{state}>"

    def counts(self) -> dict[str, Counts]:
        """How many calls of each compiled entry point ran compiled code or eagerly."""
        return dict(self.entries)


@dataclass(frozen=True)
class NoCopy:
    """Replaces the methods that `copy`, `pickle` and `torch.save` call: they raise."""

    folder: Path

    def __call__(self, *_: object) -> NoReturn:
        """Say what to do instead."""
        raise SaveError(
            f"this was loaded from the bundle {self.folder}, and compiled code can be neither "
            "copied nor pickled: load the bundle once more where you need it again"
        )

    def forbid(self, owner: Any) -> None:
        """Make copies of an object raise."""
        vars(owner).update(dict.fromkeys(_COPIERS, self))


def attach(subject: Any, loaded: Loaded) -> None:
    """Let a pipeline or module know the bundle that it was loaded from."""
    vars(subject)[_ATTRIBUTE] = loaded


def bundle_of(subject: Any) -> Loaded:
    """The bundle that a pipeline or module was loaded from."""
    loaded = getattr(subject, "__dict__", {}).get(_ATTRIBUTE)
    if not isinstance(loaded, Loaded):
        raise UsageError(f"this {type(subject).__name__} did not come out of a bundle")
    return loaded


def refuse_loaded(subject: Any) -> None:
    """Raise if a pipeline or module came out of a bundle: no step could work on it."""
    loaded = getattr(subject, "__dict__", {}).get(_ATTRIBUTE)
    if isinstance(loaded, Loaded):
        raise UsageError(
            f"this {type(subject).__name__} was loaded from the bundle {loaded.folder}, which is "
            "compiled already: pass the original model, with all the steps in one recipe"
        )


@dataclass(frozen=True, repr=False)
class Built:
    """The result of `build`. `print` shows the bundle, its size, and how long the build took.

    path: the bundle's folder.
    manifest: the bundle's manifest.
    report: what each step did, cost and gained.
    seconds: how long the whole build took.
    before, after: the sample's output before the first and after the last step; None if the
        whole bundle was copied from the build cache.
    reused: how many parts come from the build cache.

    >>> import compilekit as ck
    >>> ck.Built.__name__
    'Built'
    """

    path: Path
    manifest: Manifest
    report: Report
    seconds: float
    before: Any
    after: Any
    reused: int = 0

    def __repr__(self) -> str:
        return f"<Built {printable(str(self.path))}>"

    def __str__(self) -> str:
        files = self.manifest.files
        weights = total(files, lambda file: file.path.endswith(WEIGHTS))
        parts = len(self.manifest.parts) or int(self.manifest.whole is not None)
        cached = f" ({self.reused} from the cache)" if self.reused else ""
        return (
            f"built {self.path}: {parts} part{'s' * (parts != 1)}{cached}, {size(total(files))} "
            f"({size(weights)} of weights), {self.seconds:.0f} s"
        )
