"""Recording: the inputs of each entry point while the sample ran, to run the calls again alone.

For each entry point and signature, the first, the middle and the last call are kept on the CPU.
So memory stays bounded, however many steps the sample takes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from compilekit.base.nested import is_plain_container, mapped
from compilekit.measure.times import timed
from compilekit.subject.model import EntryPoint, cuda_devices, float_dtype

MAX_SIGNATURES = 16
"""How many signatures of one entry point are kept; calls of others are only counted."""

MATRIX = 2
"""Tensors with at least so many dimensions are cast with the weights."""


@dataclass(frozen=True)
class _HeldTensor:
    tensor: torch.Tensor
    device: torch.device
    stride: tuple[int, ...]

    def fresh(self, dtype: torch.dtype, device: torch.device | None) -> torch.Tensor:
        """A copy with the strides of the original, which compiled code checks."""
        device = device or self.device
        if not _is_dense(self.tensor.shape, self.stride):
            return self.tensor.to(device, dtype, copy=True)
        copy = torch.empty_strided(self.tensor.shape, self.stride, dtype=dtype, device=device)
        # An expanded dimension has stride 0: all its entries are one entry, written once.
        once = tuple(slice(0, 1) if step == 0 else slice(None) for step in self.stride)
        copy[once] = self.tensor[once].to(device, dtype)
        return copy


def _is_dense(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether no two elements share memory, expanded dimensions apart."""
    reach = 0
    for step, size in sorted(zip(stride, shape, strict=True)):
        if step == 0 or size == 1:
            continue
        if step <= reach:
            return False
        reach += step * (size - 1)
    return True


@dataclass(frozen=True)
class _HeldGenerator:
    state: torch.Tensor
    device: torch.device


@dataclass
class Call:
    """One recorded call of an entry point.

    index: its place among all the calls that the sample made.
    dtype: the floating dtype of the component's weights when it was made.
    small_stay: whether tensors of less than two dimensions keep their dtype: pipelines cast
        latents and embeddings to their components' dtype, and not timesteps.
    """

    entry: str
    signature: str
    index: int
    dtype: torch.dtype | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    small_stay: bool = False

    def inputs(
        self, dtype: torch.dtype | None, device: torch.device | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Fresh copies of the inputs, cast as the pipeline would for weights of this dtype.

        device: where to; by default, where each input was.
        """
        cast = functools.partial(
            _fresh, was=self.dtype, now=dtype, small_stay=self.small_stay, device=device
        )
        return mapped(self.args, cast), mapped(self.kwargs, cast)


@dataclass
class Recording:
    """The kept calls by entry point, in the order of the sample.

    dropped: how many calls were not kept.
    counts: how many calls the sample made of each entry point, from outside of all others.
    answers: the seconds of calls and what they gave, by index: of a plain module, where no random
        number was drawn.
    """

    calls: dict[str, list[Call]] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    answers: dict[int, tuple[float, Any]] = field(default_factory=dict)


def run_call(entry: EntryPoint, call: Call) -> Any:
    """Run a recorded call again."""
    return timed_call(entry, call, _do_not_wait)[1]


def timed_call(entry: EntryPoint, call: Call, wait: Callable[[], None]) -> tuple[float, Any]:
    """Run a recorded call again; returns its seconds, and what it gives."""
    try:
        return _run(entry, call, wait)
    except RuntimeError:
        if call.small_stay and float_dtype(entry.owner) != call.dtype:
            # A few pipelines cast their timesteps too: HunyuanDiT's.
            with contextlib.suppress(RuntimeError):
                result = _run(entry, dataclasses.replace(call, small_stay=False), wait)
                call.small_stay = False
                return result
        raise


def _run(entry: EntryPoint, call: Call, wait: Callable[[], None]) -> tuple[float, Any]:
    # Inputs are made before the clock starts.
    args, kwargs = call.inputs(float_dtype(entry.owner))
    # Inference mode would add guards.
    with torch.no_grad(), seeded(call):
        return timed(lambda: entry(*args, **kwargs), wait)


def _do_not_wait() -> None:
    """For calls whose time nobody reads."""


@contextlib.contextmanager
def seeded(call: Call) -> Iterator[None]:
    """The same noise each time that a call is run again."""
    with torch.random.fork_rng(devices=cuda_devices()):
        torch.manual_seed(call.index)
        yield


def record(
    entries: Sequence[EntryPoint], run: Callable[[], Any], *, small_stay: bool = False
) -> tuple[Recording, Any]:
    """Run the sample, and keep the inputs of the entry points; returns the output too."""
    recorder = _Recorder(small_stay=small_stay)
    with contextlib.ExitStack() as stack:
        for entry in entries:
            stack.enter_context(recorder.listening(entry))
        output = run()
    return recorder.recording(), output


class _Recorder:
    def __init__(self, *, small_stay: bool) -> None:
        self._small_stay = small_stay
        self._total = 0
        self._kept: dict[str, dict[str, _Thinned]] = defaultdict(dict)
        self._dropped: dict[str, int] = defaultdict(int)
        self._inside: dict[int, int] = defaultdict(int)
        self._running = 0
        self._counts: dict[str, int] = defaultdict(int)
        self._answers: dict[int, tuple[float, Any]] = {}
        self._outermost = (0, 0.0, [torch.empty(0)])

    def recording(self) -> Recording:
        calls = {
            name: sorted(
                (call for thinned in by_signature.values() for call in thinned.chosen()),
                key=lambda call: call.index,
            )
            for name, by_signature in self._kept.items()
        }
        return Recording(calls, dict(self._dropped), dict(self._counts), self._answers)

    @contextlib.contextmanager
    def listening(self, entry: EntryPoint) -> Iterator[None]:
        """Keep the calls of an entry point, but not those from its own module."""
        if entry.method == "forward":
            before = entry.owner.register_forward_pre_hook(
                functools.partial(self._on_forward, entry), with_kwargs=True, prepend=True
            )
            after = entry.owner.register_forward_hook(self._on_return, always_call=True)
            try:
                yield
            finally:
                before.remove()
                after.remove()
            return
        original = getattr(entry.owner, entry.method)
        shadowed = vars(entry.owner).get(entry.method)
        setattr(entry.owner, entry.method, self._wrapped(entry, original))
        try:
            yield
        finally:
            if shadowed is None:
                delattr(entry.owner, entry.method)
            else:
                setattr(entry.owner, entry.method, shadowed)

    def _on_forward(
        self, entry: EntryPoint, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._begin(entry, args, kwargs)

    def _on_return(self, module: nn.Module, args: Any, output: Any) -> None:
        del args
        self._end(module)
        index, start, noise = self._outermost
        # A pipeline may set its modules up for each of its own calls; a plain module is as it is.
        keeps = not self._running and not self._small_stay and output is not None
        if keeps and all(map(torch.equal, noise, _noise())):
            copied = on_cpu(output)  # this waits for the device
            self._answers[index] = (time.perf_counter() - start, copied)

    def _wrapped(self, entry: EntryPoint, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._begin(entry, args, kwargs)
            try:
                return original(*args, **kwargs)
            finally:
                self._end(entry.owner)

        return call

    def _begin(self, entry: EntryPoint, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._keep(entry, args, kwargs)
        if not self._running:
            self._counts[entry.name] += 1
            self._outermost = (self._total, time.perf_counter(), _noise())
        self._running += 1
        self._inside[id(entry.owner)] += 1

    def _end(self, owner: nn.Module) -> None:
        self._running -= 1
        self._inside[id(owner)] -= 1

    def _keep(self, entry: EntryPoint, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._inside[id(entry.owner)]:
            return
        self._total += 1
        signature = describe_call(entry, args, kwargs)
        by_signature = self._kept[entry.name]
        if signature not in by_signature and len(by_signature) >= MAX_SIGNATURES:
            self._dropped[entry.name] += 1
            return
        dtype = float_dtype(entry.owner)
        index = self._total

        def copy() -> Call:
            inputs = mapped(args, _hold), mapped(kwargs, _hold)
            return Call(entry.name, signature, index, dtype, *inputs, small_stay=self._small_stay)

        by_signature.setdefault(signature, _Thinned()).add(copy)


def _noise() -> list[torch.Tensor]:
    """The states of the random number generators."""
    states = [torch.random.get_rng_state()]
    return states + [torch.cuda.get_rng_state(device) for device in cuda_devices()]


class _Thinned:
    """Keeps the first and the last of many calls, and evenly spread ones between.

    The number of calls is not known, so every second one is dropped when there are too many.
    """

    LIMIT = 6

    def __init__(self) -> None:
        self._count = 0
        self._stride = 1
        self._spread: list[Call] = []
        self._last: Call | None = None

    def add(self, copy: Callable[[], Call]) -> None:
        self._last = copy()
        if self._count % self._stride == 0:
            self._spread.append(self._last)
        self._count += 1
        if len(self._spread) > self.LIMIT:
            self._spread = self._spread[::2]
            self._stride *= 2

    def chosen(self) -> list[Call]:
        """The first, the middle and the last call."""
        middle = self._spread[round((self._count - 1) / 2 / self._stride)]
        last = self._last or middle
        return list({call.index: call for call in (self._spread[0], middle, last)}.values())


def describe_call(entry: EntryPoint, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The signature of a call: shapes and dtypes of its tensors, and its constants."""
    parameters = inspect.signature(entry.function).parameters
    names = [name for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD]
    named = {names[i] if i < len(names) else f"args[{i}]": arg for i, arg in enumerate(args)}
    return ", ".join(f"{name}={_described(value)}" for name, value in {**named, **kwargs}.items())


def _described(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        shape = ", ".join(str(size) for size in value.shape)
        return f"{str(value.dtype).removeprefix('torch.')}[{shape}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_described(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_described(item) for item in value) + "]"
    if value is None or isinstance(value, bool | int | str):
        return repr(value)
    return type(value).__name__


def _hold(_: str, value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        copy = value.detach().to("cpu", copy=True)
        return _HeldTensor(copy, value.device, tuple(value.stride()))
    if isinstance(value, torch.Generator):
        return _HeldGenerator(value.get_state(), value.device)
    return value


def _fresh(
    _: str,
    value: Any,
    *,
    was: torch.dtype | None,
    now: torch.dtype | None,
    small_stay: bool,
    device: torch.device | None,
) -> Any:
    if isinstance(value, _HeldTensor):
        stays = now is None or value.tensor.dtype != was
        stays = stays or (small_stay and value.tensor.dim() < MATRIX)
        return value.fresh(value.tensor.dtype if stays or now is None else now, device)
    if isinstance(value, _HeldGenerator):
        generator = torch.Generator(value.device)
        generator.set_state(value.state)
        return generator
    return value


def on_cpu(value: Any) -> Any:
    """An output whose tensors are copies on the CPU; other objects stay as they are."""

    def copied(_: str, leaf: Any) -> Any:
        is_tensor = isinstance(leaf, torch.Tensor)
        return leaf.detach().to("cpu", copy=True) if is_tensor else leaf

    return mapped(value, copied, is_plain_container)
