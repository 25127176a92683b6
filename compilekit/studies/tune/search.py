"""The search: one choice after the other, for all components at once, the cheap ones first.

Each component keeps the best choices that it has so far. A round changes one choice of each
component and tries all of that in one process, since components are timed apart. A choice stays
only if the component is surely faster with it. It is dropped for good where it does not work, or is
surely much slower; what is neither is tried again once something else compiles the component.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from compilekit.plan.digest import digest_of
from compilekit.plan.plan import Plan
from compilekit.recipe.text import steps_to_text
from compilekit.studies.tune.data import Facts, Gain, Trial, gains_of
from compilekit.studies.tune.space import Point, Space
from compilekit.studies.tune.study import Study

HOPELESS = 0.85
"""A choice that makes a component so much slower is not tried again when that is compiled."""

PROMISING = 1.01
"""A choice that seems to gain so much, and not for sure, is tried again beside another compiler."""

CLOSE = 3
"""So many of a component's best choices are measured again, with more pairs of calls."""

THOROUGH = 3
"""How many times more pairs are timed then."""

PATIENCE = 10.0
"""A trial may take so many times as long as the longest so far."""

LEAST_PATIENCE = 300.0
"""Seconds that every trial may take, if they are left."""

Run = Callable[[Plan, int, float], Trial]
"""Runs a trial of a plan: how thorough, and the seconds that it may take."""


@dataclass(frozen=True)
class Move:
    """Another way for one slot of a group."""

    group: int
    slot: int
    way: int


@dataclass
class Group:
    """Slots that are chosen together, and what is the best of them so far.

    tried: the gain of each choice of ways for these slots.
    reasons: for the way that a slot has, how much faster than what, when it was taken.
    """

    slots: tuple[int, ...]
    components: frozenset[str]
    best: tuple[int, ...]
    gain: Gain = field(default_factory=Gain)
    tried: dict[tuple[int, ...], Gain] = field(default_factory=dict)
    reasons: dict[int, tuple[Gain, str]] = field(default_factory=dict)
    done: set[tuple[int, int, object]] = field(default_factory=set)
    seen: dict[tuple[int, int], Gain] = field(default_factory=dict)
    dropped: set[tuple[int, int]] = field(default_factory=set)


@dataclass
class Search:
    """One search. `run` gives the best point, and the trial of it.

    trials: in the order in which they were run.
    left_out: what was not tried, and why.
    """

    space: Space
    facts: Facts
    study: Study
    run_trial: Run
    on_trial: Callable[[Trial], None]
    seconds: float
    trials: list[Trial] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    _start: float = field(default_factory=time.monotonic)
    _costs: dict[str, float] = field(default_factory=dict)
    _measured: dict[Point, Trial] = field(default_factory=dict)
    _longest: float = 0.0
    _again: float = 0.0
    _is_ending: bool = False
    _is_apart: bool = False

    def __post_init__(self) -> None:
        """Every group starts without its steps, where that is a choice."""
        start = self.space.start
        self.groups = [
            Group(slots, self.space.components(slots), tuple(start[slot] for slot in slots))
            for slots in self.space.groups
        ]
        for group in self.groups:
            group.tried[group.best] = group.gain
        self._longest = self.facts.took

    def run(self) -> tuple[Point, Trial | None]:
        """Search until nothing is left to try, or time is over; then measure the best again."""
        self._begin()
        while moves := self._moves():
            if not self._try(moves):
                break
        return self._confirmed()

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self.seconds - (time.monotonic() - self._start)

    def point(self, changes: Sequence[Move] = ()) -> Point:
        """The best of all groups, with some changes; or of the changed ones, if each goes apart."""
        ways = list(self.space.start)
        changed = {move.group for move in changes}
        for index, group in enumerate(self.groups):
            if not changed or index in changed or not self._is_apart:
                for slot, way in zip(group.slots, group.best, strict=True):
                    ways[slot] = way
        for move in changes:
            ways[move.slot] = move.way
        return tuple(ways)

    def _begin(self) -> None:
        """Measure where the search starts, if that is not the model as loaded."""
        point = self.point()
        found = self.space.plan(point)
        if found is None or not found.steps:
            return
        trial = self._trial(point)
        if trial is None or trial.state != "measured":
            return
        for group in self.groups:
            group.gain = self._gain(group, trial)
            group.tried[group.best] = group.gain

    def _moves(self) -> list[Move]:
        """The next change of each group, the cheapest first."""
        moves = []
        for index, group in enumerate(self.groups):
            open_ = [move for move in self._open(index, group) if self._fits(move)]
            if open_:
                moves.append(min(open_, key=self._cost))
        # What is cheap is not tried beside what is dear: that would be known later.
        chosen = [move for move in moves if not self._is_dear(move)] or moves
        return chosen[:1] if self._is_apart else chosen

    def _open(self, index: int, group: Group) -> Iterator[Move]:
        for slot, now in zip(group.slots, group.best, strict=True):
            for way in range(len(self.space.slots[slot].ways)):
                move = Move(index, slot, way)
                if way == now or (slot, way) in group.dropped:
                    continue
                if self._chain(move) not in group.tried and self._context(move) not in group.done:
                    yield move

    def _context(self, move: Move) -> tuple[int, int, object]:
        """What a choice is tried beside: something that compiles or not; if promising, which."""
        group = self.groups[move.group]
        if self._compiles(move):
            return move.slot, move.way, None
        compilers = tuple(
            (slot, way)
            for slot, way in zip(group.slots, group.best, strict=True)
            if self._compiles(Move(move.group, slot, way))
        )
        before = group.seen.get((move.slot, move.way))
        is_close = before is not None and before.kind == "same" and before.speedup >= PROMISING
        return move.slot, move.way, compilers if is_close else bool(compilers)

    def _compiles(self, move: Move) -> bool:
        """Whether this way of a slot compiles, alone."""
        slot = self.space.slots[move.slot]
        if slot.ways[move.way].item is None:
            return False
        start = list(self.space.start)
        start[move.slot] = move.way
        found = self.space.plan(tuple(start))
        return found is not None and self.space.is_compiled(tuple(start), [move.slot])

    def _chain(self, move: Move) -> tuple[int, ...]:
        group = self.groups[move.group]
        pairs = zip(group.slots, group.best, strict=True)
        return tuple(move.way if slot == move.slot else way for slot, way in pairs)

    def _fits(self, move: Move) -> bool:
        return self.space.plan(self.point([move])) is not None

    def _is_dear(self, move: Move) -> bool:
        """Whether trying it means compiling the components that it is about."""
        return self.space.is_compiled(self.point([move]), self.groups[move.group].slots)

    def _cost(self, move: Move) -> tuple[float, int, int]:
        """How long a trial will take, as far as that is known; then the order of the choices."""
        if not self._is_dear(move):
            return 0.0, move.slot, move.way
        key = self._compiler(self.point([move]), self.groups[move.group])
        # A compiler that was never tried costs more than any that was.
        return self._costs.get(key, max([*self._costs.values(), 1.0]) + 1), move.slot, move.way

    def _compiler(self, point: Point, group: Group) -> str:
        named = [
            self.space.label(slot, point[slot])
            for slot in group.slots
            if self._compiles(Move(self.groups.index(group), slot, point[slot]))
        ]
        return "; ".join(named)

    def _try(self, moves: Sequence[Move]) -> bool:
        """Try some changes at once; false if there is no time left."""
        point = self.point(moves)
        if self.space.plan(point) is None:  # each fits, and all together do not
            return len(moves) == 1 or all(self._try([move]) for move in moves)
        trial = self._trial(point)
        if trial is None:
            return False
        for move in moves:
            if self._is_dear(move):
                key = self._compiler(point, self.groups[move.group])
                self._costs[key] = trial.seconds
        if trial.state == "measured":
            for move in moves:
                self._judge(move, trial)
            return True
        if self._is_joint(moves, trial):
            self._is_apart = True  # what keeps the budgets together is found at the end
            return self._try(moves)
        guilty = self._guilty(moves, trial, point)
        if guilty is None:
            # Whose fault it is shows only where each is tried alone.
            return all(self._try([move]) for move in moves)
        group = self.groups[guilty.group]
        group.dropped.add((guilty.slot, guilty.way))
        rest = [move for move in moves if move is not guilty]
        return self._try(rest) if rest else True

    def _is_joint(self, moves: Sequence[Move], trial: Trial) -> bool:
        """Whether a change may break a budget only together with what other groups have."""
        start = self.space.start
        others = (g for i, g in enumerate(self.groups) if i != moves[0].group)
        is_whole = trial.state == "over budget" and trial.step is None
        has_others = any(g.best != tuple(start[slot] for slot in g.slots) for g in others)
        return is_whole and len(moves) == 1 and has_others and not self._is_apart

    def _guilty(self, moves: Sequence[Move], trial: Trial, point: Point) -> Move | None:
        """The change that a failed trial is the fault of; None if that is not known."""
        if len(moves) == 1:
            return moves[0]
        plan = self.space.plan(point)
        if trial.step is None or plan is None:
            return None
        names = {name.split(".")[0] for name in plan.steps[trial.step].components}
        found = [m for m in moves if names & self.groups[m.group].components]
        return found[0] if len(found) == 1 else None

    def _gain(self, group: Group, trial: Trial) -> Gain:
        return self.facts.gain(gains_of(trial.speeds), self.facts.entries(group.components))

    def _judge(self, move: Move, trial: Trial) -> None:
        group = self.groups[move.group]
        gain = self._gain(group, trial)
        than = gain.over(group.gain)
        key = (move.slot, move.way)
        group.done.add(self._context(move))
        group.seen[key] = than
        group.tried[self._chain(move)] = gain
        if than.kind == "faster":
            before = self.space.label(move.slot, group.best[group.slots.index(move.slot)])
            group.best, group.gain = self._chain(move), gain
            self._again = trial.seconds
            group.reasons[move.slot] = (than, before)
        elif than.high < HOPELESS:
            group.dropped.add(key)

    def _trial(self, point: Point, thorough: int = 1) -> Trial | None:
        """The trial of a point, from the study if it is known; None if there is no time for it.

        While the search goes on, there must be time left to measure its result again.
        """
        plan = self.space.plan(point)
        assert plan is not None  # noqa: S101 - whoever asks has looked
        key = digest_of({"recipe": plan.digest, "for": plan.purpose, "thorough": thorough})
        text = steps_to_text(plan.recipe.steps)
        if key in self.study.trials:
            trial = self.study.trials[key]
        else:
            expected = self._longest if self._is_dear_point(point) else self.facts.took
            if self.left < expected + (0.0 if self._is_ending else self._again):
                what = "not tried" if thorough == 1 else "not measured again"
                self.left_out.append(f"{what}: {text}: there was no time left")
                return None
            patience = max(LEAST_PATIENCE, PATIENCE * self._longest)
            left = self.left - (0.0 if self._is_ending else self._again)
            found = self.run_trial(plan, thorough, min(left, patience))
            if found.state == "took too long" and left < patience:
                # That says nothing about it: with more time it may be tried again.
                self.left_out.append(f"not tried: {text}: the time was over meanwhile")
                return None
            whole = self.facts.gain(gains_of(found.speeds), self.facts.calls)
            trial = found.model_copy(update={"steps": text, "gain": whole, "thorough": thorough})
            self.study.keep(key, trial)
            self.on_trial(trial)
        if trial.state == "measured":
            self._longest = max(self._longest, trial.seconds)
            self._measured[point] = trial
        else:  # measured again, it did not hold
            self._measured.pop(point, None)
        if trial not in self.trials:
            self.trials.append(trial)
        return trial

    def _is_dear_point(self, point: Point) -> bool:
        return any(self.space.is_compiled(point, group.slots) for group in self.groups)

    def _confirmed(self) -> tuple[Point, Trial | None]:
        """The best as a whole: the closest choices are measured again, with more pairs."""
        self._is_ending = True
        found: dict[Point, Trial] = {}
        ranked = [self._close(group) for group in self.groups]
        for place in range(max(map(len, ranked), default=0)):
            chains = [chains[min(place, len(chains) - 1)] for chains in ranked]
            point = self._with(chains)
            if not self._has_steps(point) or self.space.plan(point) is None:
                continue
            trial = self._trial(point, THOROUGH)
            if trial is not None:
                found[point] = trial
                if trial.state == "measured":
                    for group, chain in zip(self.groups, chains, strict=True):
                        group.tried[chain] = self._gain(group, trial)
        for group, chains in zip(self.groups, ranked, strict=True):
            for chain in chains:
                if group.tried[chain].over(group.tried[group.best]).kind == "faster":
                    group.best, group.gain = chain, group.tried[chain]
        return self._whole(found)

    def _close(self, group: Group) -> list[tuple[int, ...]]:
        """The best choices of a group, the very best first."""
        rest = [
            chain
            for chain, gain in group.tried.items()
            if chain != group.best
            and gain.over(group.gain).kind != "slower"
            and gain.speedup > group.gain.speedup
        ]
        rest.sort(key=lambda chain: -group.tried[chain].speedup)
        return [group.best, *rest[: CLOSE - 1]]

    def _with(self, chains: Sequence[tuple[int, ...]]) -> Point:
        ways = [0] * len(self.space.slots)
        for group, chain in zip(self.groups, chains, strict=True):
            for slot, way in zip(group.slots, chain, strict=True):
                ways[slot] = way
        return tuple(ways)

    def _has_steps(self, point: Point) -> bool:
        plan = self.space.plan(point)
        return plan is not None and bool(plan.steps)

    def _whole(self, known: dict[Point, Trial]) -> tuple[Point, Trial | None]:
        """The best of all groups together, which must keep the budgets together as well."""
        while self._has_steps(point := self.point()):
            trial = known.get(point) or self._trial(point, THOROUGH) or self._measured.get(point)
            if trial is None:  # no time: the best of what was tried as a whole
                return self._best_measured()
            if trial.state == "measured":
                # Steps that the recipe leaves no choice of may well make it slower.
                is_better = trial.gain.kind == "faster" or self._has_steps(self.space.start)
                return (point, trial) if is_better else (self.space.start, None)
            # The choice that gains least of the sample's time goes first.
            start = self.space.start
            changed = [g for g in self.groups if g.best != tuple(start[s] for s in g.slots)]
            if not changed:
                break
            least = min(changed, key=lambda g: self.facts.share(g.components) * g.gain.speedup)
            least.best, least.gain = tuple(start[s] for s in least.slots), Gain()
        return self.space.start, None

    def _best_measured(self) -> tuple[Point, Trial | None]:
        faster = [pair for pair in self._measured.items() if pair[1].gain.kind == "faster"]
        if not faster:
            return self.space.start, None
        return max(faster, key=lambda pair: pair[1].gain.speedup)
