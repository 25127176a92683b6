"""The guard: what was warmed up is not compiled again, or it is said."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any, Literal

from torch import nn

import compilekit as ck
from compilekit_plugins.gaudi.weights import Watch
from compilekit_plugins.gaudi.worker import driver

Policy = Literal["error", "warn", "allow"]


class Guard:
    """Compares the driver's count of compilations before and after each replay.

    What lies between two replays, lazy mode gathers and compiles as segments. They are counted
    apart: another number of steps may need a new one, and that is no new size.

    is_sealed: whether the warm-up is over.
    again: graphs that were compiled although they had been warmed up.
    segments: what lazy mode compiled between calls since then.
    """

    def __init__(self, key: str, policy: Policy) -> None:
        self.key = key
        self._policy = policy
        self._before: int | None = None
        self.is_sealed = False
        self.again = 0
        self.segments = 0

    def seal(self) -> None:
        """The warm-up is over, and nothing of it is left to be compiled."""
        driver.flush()
        self.is_sealed = True

    def start(self) -> None:
        """A replay begins; what was gathered until now is none of its business."""
        if not self.is_sealed:
            return
        before = driver.compilations()
        driver.flush()
        self._before = driver.compilations()
        if before is not None and self._before is not None:
            self.segments += self._before - before

    def check(self, where: str) -> None:
        """A replay ends: look whether something was compiled, and do what the recipe says."""
        after = driver.compilations()
        if self._before is not None and after is not None:
            self.tell(after - self._before, where)
        self._before = None

    def tell(self, count: int, where: str) -> None:
        """So many graphs were compiled that had been warmed up, or should have been."""
        if count <= 0:
            return
        self.again += count
        message = (
            f"{self.key}: {count} graph{'s' * (count != 1)} compiled after the warm-up, in a call "
            f"of {where}: name its size in `shapes:`, or say `recompiles: warn`"
        )
        if self._policy == "error":
            raise ck.StepError(message)
        if self._policy == "warn":
            warnings.warn(message, stacklevel=2)

    def report(self) -> dict[str, int | None]:
        """For the step's row; None where the driver does not count: that is not zero."""
        is_counted = driver.compilations() is not None
        return {
            "graph_compilations": driver.compilations(),
            "compiled_after_warm_up": self.again if is_counted else None,
            "segments_after_warm_up": self.segments if is_counted else None,
        }


class Watched:
    """A warmed up pipeline of optimum-habana's: its calls, and the weights that it captured.

    renewed: how often its graphs were forgotten, since weights had been replaced.
    """

    def __init__(self, subject: Any, key: str, policy: Policy) -> None:
        self._subject = subject
        self.guard = Guard(key, policy)
        self.guard.seal()
        self._captures = driver.counted_captures()
        self._watches = {name: (part, Watch(part)) for name, part in self._parts()}
        self.renewed = 0
        vars(subject)["_compilekit_around"] = self.around

    def _parts(self) -> list[tuple[str, nn.Module]]:
        components = self._subject.components.items()
        return [(name, part) for name, part in components if isinstance(part, nn.Module)]

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """One call of the pipeline."""
        is_new = self._renew()
        captured, compiled = self._captures(), driver.compilations()
        yield
        driver.flush()
        graphs = _more(driver.compilations(), compiled)
        captures = _more(self._captures(), captured)
        if graphs is None:
            return
        # Where captures cannot be seen, a graph may be one, and a segment too.
        again = graphs if captures is None else captures
        self.guard.segments += max(0, graphs - again)
        if not is_new:
            self.guard.tell(again, "the pipeline")

    def _renew(self) -> bool:
        """Forget the graphs of weights that are not the pipeline's any more."""
        changed = []
        for name, part in self._parts():
            known, watch = self._watches.get(name, (None, None))
            if known is not part or watch is None:
                self._watches[name] = (part, Watch(part))
                changed.append(name)
            elif what := watch.changed():
                changed.append(f"{name}.{what}")
        if not changed:
            return False
        self.renewed += 1
        if not _forget([self._subject, *(part for _, part in self._parts())]):
            raise ck.StepError(
                f"{self.guard.key}: {changed[0]} was replaced after its graph was captured, and "
                f"{type(self._subject).__name__} cannot forget graphs: perform the step on the "
                "changed pipeline"
            )
        return True

    def report(self) -> dict[str, int | None]:
        """For the step's row."""
        return {**self.guard.report(), **({"renewed": self.renewed} if self.renewed else {})}


def _more(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before


def _forget(owners: list[Any]) -> bool:
    """Empty what holds captured graphs; gives whether there is such a thing."""
    caches = [owner.cache for owner in owners if isinstance(getattr(owner, "cache", None), dict)]
    modules = [
        inner for owner in owners if isinstance(owner, nn.Module) for inner in owner.modules()
    ]
    forget = [cache.clear for cache in caches]
    forget += [inner.clear_cache for inner in modules if callable(vars(inner).get("clear_cache"))]
    for clear in forget:
        clear()
    return bool(forget)
