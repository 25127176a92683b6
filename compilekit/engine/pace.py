"""Times that can be trusted: measured in turn with a copy of the model as it was loaded.

A machine is slower at one moment than at another, for both alike. So the ratio to the copy means
something where a time does not, and ratios that were taken minutes apart can be compared.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import random
import statistics
import time
import types
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from compilekit.base.bytesize import size
from compilekit.base.control_groups import free_bytes
from compilekit.base.texts import summary
from compilekit.base.torch_internals import compiled_call
from compilekit.engine.recording import Call, timed_call
from compilekit.engine.reference import Outputs, outputs_of
from compilekit.errors import CompilekitError, StepError
from compilekit.measure import state
from compilekit.measure.times import in_turn, several
from compilekit.report.verdict import MARGIN, WIDEST
from compilekit.subject.model import (
    EntryPoint,
    Layer,
    Model,
    stored_bytes,
)

LEAST = 5
"""Pairs of long calls that show a small difference."""

FEW = 3
"""Pairs of long calls that show a large difference."""

LOOKS = (10, 20, 40, 80)
"""Pairs of short calls after which it is asked whether they show enough. The last are enough."""

PATIENCE = 4.0
"""Seconds for short calls. Calls of which the least number of looks takes longer are long."""

SURE = 0.99
"""How sure the interval of short calls is: it is looked at several times."""

SAMPLES = 400
"""How many samples are drawn from the pairs of short calls for the interval."""

LARGE = 1.5
"""A difference that a few pairs show."""

SHAKY, SHAKIEST = 1.1, 1.15
"""How much wider the interval of less than the least number of pairs is, and of one pair."""

DRIFT = 1.25
"""How much faster or slower a machine may be a minute later."""

DEEPEST = 4
"""How far a function's closures and their attributes are looked through for modules."""

ROOM = 1.1
"""How much more memory than the copy takes must be free."""

TIGHT = 1.1
"""An interval that is no wider than this factor shows that there is no difference to find."""


@dataclass(frozen=True)
class Pace:
    """The time of one call over that of another, and the interval that holds it.

    seconds: of the first. seconds_as_loaded: of the other.
    """

    ratio: float
    low: float
    high: float
    seconds: float = 0.0
    seconds_as_loaded: float = 0.0

    def against(self, other: Pace) -> Pace:
        """How this pace compares with another, both taken against the same copy."""
        return Pace(self.ratio / other.ratio, self.low / other.high, self.high / other.low)

    @property
    def is_sure(self) -> bool:
        """Whether it shows a difference."""
        return self.verdict in ("faster", "slower")

    @property
    def is_large(self) -> bool:
        """Whether it shows a large difference."""
        return self.low > LARGE or self.high < 1 / LARGE

    @property
    def verdict(self) -> Literal["faster", "slower", "noise", "untold"]:
        """What can be said for sure: nothing, where the interval is wide and holds 1."""
        if self.high < 1 and self.ratio < 1 / (1 + MARGIN):
            return "faster"
        if self.low > 1 and self.ratio > 1 + MARGIN:
            return "slower"
        return "untold" if self.high > WIDEST * self.low else "noise"


def pace_of(pairs: Sequence[tuple[float, float]]) -> Pace:
    """The pace of pairs of times, which were taken in turn.

    Other work on the machine only adds to times, so the quickest eighth of them is compared. The
    interval is that of many samples that are drawn from the pairs.
    """
    if len(pairs) < LOOKS[0]:
        ratios = [now / then for now, then in pairs]
        wider = 1.0 if len(pairs) >= LEAST else SHAKY if len(pairs) > 1 else SHAKIEST
        now, then = (statistics.median(times) for times in zip(*pairs, strict=True))
        low, high = min(ratios) / wider, max(ratios) * wider
        return Pace(statistics.median(ratios), low, high, now, then)
    drawn = random.Random(0)  # noqa: S311 - nothing secret: equal times give equal intervals
    ratios = sorted(_quick(drawn.choices(pairs, k=len(pairs)))[0] for _ in range(SAMPLES))
    outside = round(SAMPLES * (1 - SURE) / 2)
    ratio, now, then = _quick(pairs)
    return Pace(ratio, ratios[outside], ratios[-1 - outside], now, then)


def _quick(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """The ratio of the slowest times of the quickest eighths, and these times."""
    place = len(pairs) // 8
    now, then = (sorted(times)[place] for times in zip(*pairs, strict=True))
    return now / then, now, then


class Pacer:
    """Holds a copy of entry points as they are now, and times others beside it.

    thorough: how many times more pairs than usual are timed.
    working: the bytes that a run of the sample takes beyond the weights: they must stay free.
    why_not: why there is no copy, or no more; empty if there is one.
    """

    def __init__(
        self, model: Model, calls: Mapping[str, Sequence[Call]], working: int = 0, thorough: int = 1
    ) -> None:
        self._model = model
        self._thorough = thorough
        self._calls = {name: calls[name][len(calls[name]) // 2] for name in calls}
        self._start = state.snapshot()
        self._copies: dict[str, EntryPoint] = {}
        self._given: dict[str, Any] = {}
        entries = {name: model.entry_point(name) for name in calls}
        owners_now = {id(entry.owner): entry.owner for entry in entries.values()}
        modules = _outermost(owners_now.values())
        self.why_not = _no_room(modules, working) or _not_its_own(modules)
        if self.why_not:
            return
        try:
            # In one go: entry points may share a module, or lie inside each other.
            owners = copy.deepcopy({name: entry.owner for name, entry in entries.items()})
            self.why_not = _shared(modules, owners.values())
        except (Exception, SystemExit) as error:  # noqa: BLE001 - modules may raise anything
            self.why_not = f"the model cannot be copied ({_in_short(error)})"
        if self.why_not:
            return
        self._copies = {name: replace(entry, owner=owners[name]) for name, entry in entries.items()}
        for name in entries:  # what does not run is known while there is another way
            self.outputs(name)

    def paces(self, names: Iterable[str], budget: float = float("inf")) -> dict[str, Pace]:
        """How entry points compare with their copies.

        budget: seconds for each, after which fewer pairs of long calls than the least are enough if
            they show no difference.
        """
        try:
            return {name: self._in_turn(name, budget) for name in names if name in self._copies}
        except (_CopyError, torch.OutOfMemoryError, MemoryError) as error:
            self._forget(error.__cause__ or error)
            return {}

    def _forget(self, error: BaseException) -> None:
        self._copies.clear()
        self._given.clear()
        self.why_not = f"a copy of the model does not run beside it ({_in_short(error)})"

    def outputs(self, name: str) -> Outputs | None:
        """What the copy gives for the call that is timed; None if there is no copy."""
        copied = self._copies.get(name)
        if copied is None:
            return None
        if name not in self._given:
            try:
                with self._as_loaded():
                    self._given[name] = timed_call(copied, self._calls[name], self._model.wait)[1]
            except (Exception, SystemExit) as error:  # noqa: BLE001 - there may be no room for it
                self._forget(error)
                return None
        return outputs_of(self._given[name])

    def now(self, name: str) -> Outputs:
        """What the model gives for the call that is timed."""
        entry = self._model.entry_point(name)
        return outputs_of(timed_call(entry, self._calls[name], self._model.wait)[1])

    def times(self, name: str) -> list[float]:
        """The seconds of some calls of the model as it is now."""
        entry, call = self._model.entry_point(name), self._calls[name]

        def once() -> float:
            return timed_call(entry, call, self._model.wait)[0]

        return several(once, least=2, most=LOOKS[0], seconds=PATIENCE / LOOKS[0])

    def _in_turn(self, name: str, budget: float) -> Pace:
        now, then, call = self._model.entry_point(name), self._copies[name], self._calls[name]
        has_changed = bool(self._start.diff(state.snapshot()))

        def seconds_now() -> float:
            try:
                return timed_call(now, call, self._model.wait)[0]
            except (CompilekitError, torch.OutOfMemoryError, MemoryError):
                raise
            except (Exception, SystemExit) as error:
                raise StepError(f"{name} no longer runs: {summary(error)}") from error

        def seconds_as_loaded() -> float:
            # Settings of the process are a step's work too: the copy runs without them.
            with self._as_loaded() if has_changed else contextlib.nullcontext():
                try:
                    seconds, self._given[name] = timed_call(then, call, self._model.wait)
                except (Exception, SystemExit) as error:
                    raise _CopyError from error
                return seconds

        pairs: list[tuple[float, float]] = []
        is_warm, start = False, time.perf_counter()
        for pair in in_turn(seconds_now, seconds_as_loaded):
            if not is_warm and not _is_long(pair):
                is_warm = True  # the first of short calls does not count
                continue
            is_warm = True
            pairs.append(pair)
            if _is_enough(pairs, time.perf_counter() - start, budget, self._thorough):
                break
        return pace_of(pairs)

    @contextlib.contextmanager
    def _as_loaded(self) -> Iterator[None]:
        """The settings of the process as they were when the model was copied."""
        now = state.snapshot()
        state.restore(self._start)
        try:
            yield
        finally:
            state.restore(now)


def one_after_the_other(then: Sequence[float], now: Sequence[float]) -> Pace:
    """The pace of times that were not taken in turn: the machine may have changed meanwhile."""
    before, after = statistics.median(then), statistics.median(now)
    low, high = min(now) / max(then) / DRIFT, max(now) / min(then) * DRIFT
    return Pace(after / before, low, high, after, before)


def _is_long(pair: tuple[float, float]) -> bool:
    return sum(pair) * LOOKS[0] > PATIENCE


def _is_enough(
    pairs: Sequence[tuple[float, float]], seconds: float, budget: float, thorough: int
) -> bool:
    """Whether more pairs would tell no more, or cost too much for what they would tell."""
    count = len(pairs)
    if thorough > 1:
        if _is_long(pairs[0]):
            return count >= thorough * LEAST
        return count >= thorough * LOOKS[-1] or seconds >= thorough * PATIENCE
    if not _is_long(pairs[0]):
        is_over = count >= LOOKS[-1] or seconds >= PATIENCE
        if is_over or count not in LOOKS:
            return is_over
        pace = pace_of(pairs)
        return pace.is_sure or pace.high <= TIGHT * pace.low
    pace = pace_of(pairs)
    if count >= LEAST or (count >= FEW and pace.is_large):
        return True
    return seconds >= budget and not pace.is_sure


def _no_room(modules: Iterable[nn.Module], working: int) -> str:
    """Why a copy of modules does not fit in memory; empty if it does."""
    taken = Counter[torch.device]()
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            # Weights that accelerate fetches wait in memory; a copy takes them along.
            device = torch.device("cpu") if tensor.is_meta else tensor.device
            taken[device] += stored_bytes(tensor)
    for device, count in taken.items():
        if device.type not in ("cpu", "cuda"):
            continue
        needed, free = int(ROOM * count) + working, _free_on(device)
        if needed > free:
            return f"a copy of the model, and a run, take {size(needed)}, and {size(free)} are free"
    return ""


def _free_on(device: torch.device) -> int:
    if device.type == "cpu":
        return free_bytes()
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def _not_its_own(modules: Iterable[nn.Module]) -> str:
    """Why a copy would not do what the original does; empty if it would.

    torch leaves compiled code out of copies. And a function is not copied: what it has hold of is
    the original's.
    """
    for module in modules:
        for path, part in module.named_modules():
            if compiled_call(part) is not None:
                return f"the model cannot be copied: {path or 'it'} is compiled in place"
            for name, value in vars(part).items():
                if _holds_on(value):
                    where = f"{path}.{name}".lstrip(".")
                    return f"the model cannot be copied: {where} is a function that knows it"
    return ""


def _holds_on(function: object) -> bool:
    """Whether it is a function that has hold of a module, which no copy of it changes."""
    while isinstance(function, Layer | functools.partial):
        function = function.beneath if isinstance(function, Layer) else function.func
    return isinstance(function, types.FunctionType) and any(map(_reaches, _held(function)))


def _held(function: types.FunctionType) -> Iterator[object]:
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # it is not filled yet
            yield cell.cell_contents


def _reaches(held: object, depth: int = DEEPEST) -> bool:
    """Whether a module is this, or is within reach of it."""
    held = getattr(held, "__self__", held)
    if isinstance(held, nn.Module) or not depth or isinstance(held, type):
        return isinstance(held, nn.Module)
    inner = _held(held) if isinstance(held, types.FunctionType) else getattr(held, "__dict__", {})
    values = inner.values() if isinstance(inner, Mapping) else inner
    return any(_reaches(value, depth - 1) for value in values)


def _shared(modules: Iterable[nn.Module], copies: Iterable[nn.Module]) -> str:
    """Why copies are none; empty if they have nothing of the original's."""
    known = {id(part) for module in modules for part in module.modules()}
    if any(id(part) in known for copied in copies for part in copied.modules()):
        return "the model cannot be copied: its copy has the same modules"
    return ""


def _outermost(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Those that lie in no other one."""
    known = list(modules)
    inside = {id(part) for module in known for part in module.modules() if part is not module}
    return [module for module in known if id(module) not in inside]


class _CopyError(Exception):
    """The copy of the model does not run; the cause says why."""


def _in_short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
