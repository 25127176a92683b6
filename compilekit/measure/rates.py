"""How fast this machine computes: a few seconds of measuring, on each device."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import psutil
import torch

from compilekit.base.machine import NUMBERS, Gpu, Number, Rates
from compilekit.base.torch_internals import int8_matmul

SECONDS = 0.25
"""How long one rate is measured, at least twice."""

SIZES = (256, 1024, 4096)
"""A matrix is as large as can be multiplied in a tenth of that time."""

LOOK = 0.3
"""How long this process waits to see what others do."""

CHANNELS, EDGES = 64, (16, 64, 256)
MEMORY = 1 << 28

UNABLE = (RuntimeError, NotImplementedError, TypeError, AttributeError)
"""What torch raises for numbers that a device cannot compute with."""


def measured() -> dict[str, Rates]:
    """The rates of each device of this machine."""
    return {device: _rates(torch.device(device)) for device in _devices()}


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


def _rates(device: torch.device) -> Rates:
    others = psutil.cpu_percent(interval=LOOK) / 100
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        return Rates(
            matmul=_each(lambda number: _matmul(number, device), SIZES, device),
            convolution=_each(lambda number: _convolution(number, device), EDGES, device),
            memory=_memory(device),
            others=min(others, 1.0),
        )


Work = Callable[[int], tuple[float, Callable[[], object]]]
"""Makes, for a size, a piece of work: how many operations it has, and the function to call."""


def _each(
    work: Callable[[Number], Work], sizes: tuple[int, ...], device: torch.device
) -> dict[Number, float]:
    rates: dict[Number, float] = {}
    for number in NUMBERS:
        with contextlib.suppress(*UNABLE):
            rates[number] = _rate(work(number), sizes, device)
    return rates


def _rate(work: Work, sizes: tuple[int, ...], device: torch.device) -> float:
    """Operations per second of the largest work that is quick enough."""
    rate = 0.0
    for size in sizes:
        count, run = work(size)
        if rate and count / rate > SECONDS / 10:
            break
        rate = count / _fastest(run, device)
    return rate


def _fastest(run: Callable[[], object], device: torch.device) -> float:
    """The seconds of the fastest run: other work on the machine only adds to them."""
    wait = torch.cuda.synchronize if device.type == "cuda" else _already_done
    run()
    wait()
    best, start = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - start < SECONDS:
        before = time.perf_counter()
        run()
        wait()
        best = min(best, time.perf_counter() - before)
    return best


def _already_done() -> None:
    pass


def _matmul(number: Number, device: torch.device) -> Work:
    def work(size: int) -> tuple[float, Callable[[], object]]:
        one, other = (_tensor((size, size), number, device) for _ in range(2))
        product = int8_matmul if number == "int8" else torch.mm
        return 2.0 * size**3, lambda: product(one, other)

    return work


def _convolution(number: Number, device: torch.device) -> Work:
    def work(edge: int) -> tuple[float, Callable[[], object]]:
        image = _tensor((1, CHANNELS, edge, edge), number, device)
        weight = _tensor((CHANNELS, CHANNELS, 3, 3), number, device)
        count = 2.0 * 9 * CHANNELS**2 * edge**2
        return count, lambda: torch.nn.functional.conv2d(image, weight, padding=1)

    return work


def _tensor(shape: tuple[int, ...], number: Number, device: torch.device) -> torch.Tensor:
    if number == "int8":
        return torch.randint(-8, 8, shape, dtype=torch.int8, device=device)
    return torch.randn(shape, device=device).to(getattr(torch, number))


def _memory(device: torch.device) -> float:
    source = torch.ones(MEMORY // 8, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _fastest(lambda: target.copy_(source), device)
