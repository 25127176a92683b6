"""How fast this machine computes: a few seconds of measuring, for all devices together.

Other work comes and goes within seconds, so each kind of work gets several short turns, spread over
the whole time. Its fastest run counts: other work only makes runs slower.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import psutil
import torch

from compilekit.base.control_groups import cores
from compilekit.base.machine import NUMBERS, Gpu, Machine, Number, Rates, this_machine
from compilekit.base.torch_internals import int8_matmul

SECONDS = {"cpu": 4.0, "cuda": 0.8}
"""How long a device is measured; with all that is set up before, five seconds in all."""

TURN = {"cpu": 0.04, "cuda": 0.01}
"""The seconds of one turn; it has one run at least."""

RUN = {"cpu": 0.005, "cuda": 0.002}
"""The seconds that one run should take: long enough to use all cores, short enough to be lucky."""

EDGES = (
    48, 80, 112, 144, 176, 208, 272, 320, 448, 576, 704, 960, 1216, 1472, 1984, 2496, 3136, 4032,
)  # fmt: skip
"""The sizes of matrices, so close that it matters little which of two neighbours is taken.

None is a power of two: there, rows fall onto the same lines of a cache, and simple code is slow.
"""

IMAGES = (8, 12, 20, 24, 28, 36, 44, 56, 72, 88, 112, 144, 176, 232, 296, 392, 488)
"""The sizes of images, chosen likewise."""

HALF = 0.5
"""In this share of the time a size may still grow, if other work delayed its first runs."""

CHANNELS = 64
FEW = 1 << 16
MEMORY = 1 << 27
"""The bytes that are copied: more than caches hold."""

UNABLE = (RuntimeError, NotImplementedError, TypeError, AttributeError)
"""What torch raises for numbers that a device cannot compute with."""


def measured_machine() -> Machine:
    """What this machine can do, its rates measured now."""
    found = {"threads": torch.get_num_threads(), "gpus": gpus(), "rates": measured()}
    return this_machine().model_copy(update=found)


def measured() -> dict[str, Rates]:
    """The rates of each device of this machine."""
    with torch.inference_mode(), torch.random.fork_rng(devices=[]), _usable_threads():
        return {device: _rates(device) for device in _devices()}


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that torch can use here."""
    if not torch.cuda.is_available():
        return ()
    rows = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return tuple(
        Gpu(name=row.name, generation=f"{row.major}.{row.minor}", memory=row.total_memory)
        for row in rows
    )


def _devices() -> Iterator[str]:
    yield "cpu"
    if torch.cuda.is_available():
        yield "cuda"


@contextlib.contextmanager
def _usable_threads() -> Iterator[None]:
    """No more threads than cores: else threads wait for each other, and no two runs agree."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, cores()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class Work:
    """One kind of work: `count` says how much it is in a size, `make` gives a function to call."""

    device: str
    sizes: Sequence[int]
    count: Callable[[int], float]
    make: Callable[[int], Callable[[], object]]
    size: int = 0
    best: float = 0.0

    def choose(self) -> None:
        """Choose the largest size whose run is short enough, as far as that is known by now."""
        while (wanted := self._wanted()) > self.size:
            before = self.size, self.best
            self.size, self.best = wanted, 0.0
            try:
                self._run(times=3)
            except torch.OutOfMemoryError:
                if not before[0]:
                    raise
                self.size, self.best = before
                self.sizes = [size for size in self.sizes if size <= self.size]

    def turn(self) -> None:
        """Run it for a while; the fastest run counts."""
        self._run(seconds=TURN[self.device])

    def _wanted(self) -> int:
        quick = [s for s in self.sizes if self.count(s) <= self.best * RUN[self.device]]
        return max(quick, default=self.sizes[0])

    def _run(self, times: int = 1, seconds: float = 0.0) -> None:
        # New tensors each time: some places in memory are slower than others.
        run = self.make(self.size)
        self._seconds(run)  # a first run sets up what later ones find
        done, end = 0, time.perf_counter() + seconds
        while done < times or time.perf_counter() < end:
            self.best = max(self.best, self.count(self.size) / max(self._seconds(run), 1e-9))
            done += 1

    def _seconds(self, run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def _rates(device: str) -> Rates:
    matmul = {number: _matmul(number, device) for number in NUMBERS}
    convolution = {number: _convolution(number, device) for number in NUMBERS}
    memory = _memory(device)
    before, start = _core_seconds(), time.perf_counter()
    able = [work for work in (*matmul.values(), *convolution.values(), memory) if _is_able(work)]
    end, lasts = start + SECONDS[device], 0.0
    while (begun := time.perf_counter()) + lasts < end or not lasts:
        for work in able:
            if begun < start + HALF * SECONDS[device]:
                work.choose()
            work.turn()
        lasts = time.perf_counter() - begun
    return Rates(
        matmul={number: work.best for number, work in matmul.items() if work in able},
        convolution={number: work.best for number, work in convolution.items() if work in able},
        memory=memory.best,
        others=_taken_by_others(before, _core_seconds()),
    )


def _is_able(work: Work) -> bool:
    try:
        work.choose()
    except UNABLE:
        return False
    return True


def _matmul(number: Number, device: str) -> Work:
    def make(size: int) -> Callable[[], object]:
        one, other = (_tensor((size, size), number, device) for _ in range(2))
        product = int8_matmul if number == "int8" else torch.mm
        return lambda: product(one, other)

    return Work(device, EDGES, lambda size: 2.0 * size**3, make)


def _convolution(number: Number, device: str) -> Work:
    def make(size: int) -> Callable[[], object]:
        image = _tensor((1, CHANNELS, size, size), number, device)
        weight = _tensor((CHANNELS, CHANNELS, 3, 3), number, device)
        return lambda: torch.nn.functional.conv2d(image, weight, padding=1)

    return Work(device, IMAGES, lambda size: 2.0 * 9 * CHANNELS**2 * size**2, make)


def _memory(device: str) -> Work:
    def make(size: int) -> Callable[[], object]:
        source = torch.ones(size, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        return lambda: target.copy_(source)

    return Work(device, (MEMORY,), lambda size: 2.0 * size, make)


def _tensor(shape: tuple[int, ...], number: Number, device: str) -> torch.Tensor:
    """Random numbers; a large tensor repeats a few, since making them takes longer than using."""
    count = torch.Size(shape).numel()
    few = torch.randn(min(count, FEW)).clamp(-2, 2)
    numbers = (few * 4).round() if number == "int8" else few
    small = numbers.to(device=device, dtype=getattr(torch, number))
    return small.repeat(-(-count // len(few)))[:count].reshape(shape)


def _core_seconds() -> tuple[float, float, float]:
    """The seconds that the cores were there, were busy, and were busy with this process."""
    rows = psutil.cpu_times(percpu=True)
    if hasattr(os, "sched_getaffinity"):
        usable = os.sched_getaffinity(0)
        rows = [row for core, row in enumerate(rows) if core in usable] or rows
    idle = sum(row.idle + getattr(row, "iowait", 0.0) for row in rows)
    kinds = ("user", "nice", "system", "irq", "softirq", "steal")
    busy = sum(getattr(row, kind, 0.0) for row in rows for kind in kinds)
    own = psutil.Process().cpu_times()
    return idle + busy, busy, own.user + own.system


def _taken_by_others(
    before: tuple[float, float, float], after: tuple[float, float, float]
) -> float:
    """The share of the cores that other programs took meanwhile."""
    whole, busy, own = (late - early for early, late in zip(before, after, strict=True))
    return min(max((busy - own) / whole, 0.0), 1.0) if whole > 0 else 0.0
