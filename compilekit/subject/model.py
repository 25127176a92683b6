"""The handle on a user's pipeline or module: components, entry points, one way to run it.

Nothing here knows an architecture. A pipeline is anything with `components`, as diffusers'
are; a plain module is one component called `model`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from compilekit.base.diffusers_internals import (
    OLD_FORWARD,
    beneath_hook,
    compute_dtype,
    progress_bar_config,
    run_hook,
    unset_progress_bar,
)
from compilekit.base.texts import did_you_mean
from compilekit.base.torch_internals import ORIGINAL
from compilekit.errors import ModelError, UsageError

PLAIN = "model"
"""What the component of a plain module is called."""

METHODS = ("forward", "encode", "decode")
"""The methods of a component that pipelines call."""

DENOISERS = ("unet", "transformer")


@dataclass(frozen=True)
class EntryPoint:
    """A callable of the model that steps name: `unet` (its forward) or `vae.decode`."""

    name: str
    component: str
    owner: nn.Module
    method: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it as the pipeline would, hooks and compiled code included."""
        target = self.owner if self.method == "forward" else getattr(self.owner, self.method)
        return target(*args, **kwargs)

    @property
    def is_bare_forward(self) -> bool:
        """Whether it is a forward with nothing around it, so that `Module.compile` serves."""
        return self.method == "forward" and not {"forward", OLD_FORWARD} & set(vars(self.owner))

    @property
    def function(self) -> Callable[..., Any]:
        """What runs beneath offload hooks and other layers, bound to the module."""
        function: Callable[..., Any] = getattr(self.owner, self._slot)
        while isinstance(function, Layer):
            function = function.beneath
        wrapped = beneath_hook(getattr(function, "__func__", None))
        if self.method != "forward" and wrapped is not None:
            # diffusers wraps encode and decode in a function that first runs the offload hook.
            return functools.partial(wrapped, self.owner)
        return function

    def replace(self, function: Callable[..., Any]) -> None:
        """Put another callable in its place, beneath offload hooks and other layers."""
        outer = getattr(self.owner, self._slot)
        if isinstance(outer, Layer):
            outer.put_beneath(function)
        elif self.method == "forward":
            setattr(self.owner, self._slot, function)
        else:
            setattr(self.owner, self.method, OffloadLayer(function, self.owner))

    def put_back(self, python: Callable[..., Any]) -> None:
        """Put the Python function back that `replace` took away."""
        outer = vars(self.owner).get(self._slot)
        if isinstance(outer, Layer):
            outer.put_beneath(python)
        elif self._slot == "forward" and getattr(python, "__self__", None) is self.owner:
            vars(self.owner).pop("forward", None)
        else:
            self.replace(python)

    @contextlib.contextmanager
    def standing_in(self, function: Callable[..., Any]) -> Iterator[None]:
        """Put another callable in its place for a while, beneath offload hooks and layers."""
        slot = self._slot
        outer = getattr(self.owner, slot)
        before, shadowed = outer, vars(self.owner).get(slot)
        while isinstance(before, Layer):
            before = before.beneath
        self.replace(function)
        try:
            yield
        finally:
            if isinstance(outer, Layer):
                outer.put_beneath(before)
            else:
                delattr(self.owner, slot)
                if shadowed is not None:
                    setattr(self.owner, slot, shadowed)

    def wrap(self, make: Callable[[Callable[..., Any]], Layer]) -> None:
        """Put a layer around it, which stays outside of what is compiled later."""
        if self.method != "forward" and not isinstance(getattr(self.owner, self.method), Layer):
            self.replace(self.function)
        setattr(self.owner, self._slot, make(getattr(self.owner, self._slot)))

    @property
    def _slot(self) -> str:
        """The attribute that holds it: accelerate moves a forward that it hooks."""
        hooked = self.method == "forward" and OLD_FORWARD in vars(self.owner)
        return OLD_FORWARD if hooked else self.method


class Layer:
    """A callable around an entry point, which stays when what is beneath it is replaced."""

    def __init__(self, beneath: Callable[..., Any]) -> None:
        self.put_beneath(beneath)

    def put_beneath(self, function: Callable[..., Any]) -> None:
        """Replace what is innermost."""
        beneath = vars(self).get("beneath")
        if isinstance(beneath, Layer):
            beneath.put_beneath(function)
            function = beneath
        self.beneath = function
        self.__wrapped__ = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.beneath(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Tell torch, and tools that look, when there is compiled code beneath."""
        if name != ORIGINAL:
            raise AttributeError(name)
        return getattr(self.beneath, name)


class OffloadLayer(Layer):
    """Runs the owner's offload hook first, if it has one by then, as diffusers' methods do."""

    def __init__(self, beneath: Callable[..., Any], owner: nn.Module) -> None:
        super().__init__(beneath)
        self._owner = owner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run_hook(self._owner)
        return self.beneath(*args, **kwargs)


class Model:
    """A pipeline or a module, by the names that recipes use."""

    def __init__(self, subject: Any, inputs: Mapping[str, torch.Tensor] | None = None) -> None:
        self.subject = subject
        self.inputs = dict(inputs or {})
        self.is_pipeline = not isinstance(subject, nn.Module)
        if self.is_pipeline and not isinstance(getattr(subject, "components", None), Mapping):
            raise UsageError(
                f"{type(subject).__name__} is neither a diffusers pipeline nor an nn.Module"
            )
        if not self.modules:
            raise UsageError(f"this {type(subject).__name__} has no component that is a module")
        if not self.is_pipeline and not self.inputs:
            raise UsageError(
                f"a {type(subject).__name__} is a plain module: pass `inputs=` with an example of "
                "each, or name them under `model: {inputs: ...}`"
            )
        for name, module in self.modules.items():
            _refuse_unmade(name, module)
            if not self.is_pipeline:
                _refuse_scripted(name, module)
        self._loaded_dtype = None if self.is_pipeline else float_dtype(subject)
        self.waits: tuple[Callable[[], None], ...] = ()

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The components that are modules, by name; a module under two names counts once."""
        if not self.is_pipeline:
            return {PLAIN: self.subject}
        by_id: dict[int, tuple[str, nn.Module]] = {}
        for name, part in self.subject.components.items():
            if isinstance(part, nn.Module):
                by_id.setdefault(id(part), (name, part))
        return dict(by_id.values())

    @property
    def denoisers(self) -> list[str]:
        """The components that do most of the work: the UNet or transformer, else the largest."""
        modules = self.modules
        named = [name for name in modules if name.split("_")[0] in DENOISERS]
        return named or [max(modules, key=lambda name: parameter_bytes(modules[name]))]

    @functools.cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """What a call of the pipeline takes."""
        return inspect.signature(type(self.subject).__call__).parameters

    def module(self, name: str) -> nn.Module:
        """A component, or a module inside it: `unet`, `unet.mid_block`."""
        module = self._resolve(name)
        if not isinstance(module, nn.Module):
            raise ModelError(f'"{name}" is a method, not a module: name its component instead')
        return module

    def entry_point(self, name: str) -> EntryPoint:
        """A callable by name: `unet`, `vae.decode`, `transformer.transformer_blocks.0`."""
        target = self._resolve(name)
        if isinstance(target, nn.Module):
            _refuse_scripted(name, target)
            return EntryPoint(name, name, target, "forward")
        component, _, method = name.rpartition(".")
        return EntryPoint(name, component, self.module(component), method)

    def entry_points(self, name: str) -> list[EntryPoint]:
        """What pipelines call of a component: its forward, and encode and decode if it has them."""
        entry = self.entry_point(name)
        if entry.method != "forward" or name not in self.modules:
            return [entry]
        methods = [method for method in METHODS[1:] if callable(getattr(entry.owner, method, None))]
        return [entry, *(self.entry_point(f"{name}.{method}") for method in methods)]

    def _resolve(self, name: str) -> Any:
        component, *path = name.split(".")
        modules = self.modules
        if component not in modules:
            raise ModelError(no_component(component, type(self.subject).__name__, modules))
        target: Any = modules[component]
        for position, part in enumerate(path):
            owner = ".".join([component, *path[:position]])
            target = _attribute(target, part, owner)
        return target

    def wait(self) -> None:
        """Wait until the device has done what it was given, so that a clock read next is right."""
        if cuda_in_use():
            torch.cuda.synchronize()
        for wait in self.waits:
            wait()

    def run(self, sample: Mapping[str, Any], seed: int) -> Any:
        """Run the sample once: a real call of the pipeline, or of the module on its inputs."""
        with torch.random.fork_rng(devices=cuda_devices()), torch.no_grad(), self._quiet():
            torch.manual_seed(seed)
            if not self.is_pipeline:
                return self.subject(**self._cast_inputs())
            return self.subject(**self._arguments(sample, seed))

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """Switch the pipeline's own progress bar off: the engine shows what is going on."""
        before = progress_bar_config(self.subject)
        if hasattr(self.subject, "set_progress_bar_config"):
            self.subject.set_progress_bar_config(**{**(before or {}), "disable": True})
        try:
            yield
        finally:
            if before is not None:
                self.subject.set_progress_bar_config(**before)
            else:
                unset_progress_bar(self.subject)

    def _cast_inputs(self) -> dict[str, Any]:
        """The inputs, in the dtype that the module has by now, as a caller would pass them."""
        now, loaded = float_dtype(self.subject), self._loaded_dtype

        def fresh(value: Any) -> Any:
            # A copy: a module may write into its inputs, and each run must see the same.
            if not isinstance(value, torch.Tensor):
                return value
            return value.to(now if now and value.dtype == loaded else value.dtype, copy=True)

        return {name: fresh(value) for name, value in self.inputs.items()}

    def _arguments(self, sample: Mapping[str, Any], seed: int) -> dict[str, Any]:
        accepted = self.parameters
        # diffusers' own pipelines take any keyword, and ignore those that they do not know.
        strict = type(self.subject).__module__.startswith("diffusers.")
        takes_any = not strict and any(p.kind is p.VAR_KEYWORD for p in accepted.values())
        for name in sample:
            if name not in accepted and not takes_any:
                kind, hint = type(self.subject).__name__, did_you_mean(name, accepted)
                raise ModelError(f"sample.{name}: {kind} takes no such argument.{hint}")
        arguments = dict(sample)
        if "generator" in accepted:
            arguments.setdefault("generator", torch.Generator("cpu").manual_seed(seed))
        if "output_type" in accepted:
            # Floats between 0 and 1: eight-bit images would hide small differences.
            arguments.setdefault("output_type", "np")
        return arguments


def _refuse_scripted(name: str, module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(
            f"{name} is a {type(module).__name__}, which holds no Python code to work on: pass the "
            "original module"
        )


def _refuse_unmade(name: str, module: nn.Module) -> None:
    lazy = (*module.named_parameters(), *module.named_buffers())
    if path := next((path for path, t in lazy if nn.parameter.is_lazy(t)), ""):
        raise ModelError(f"{name}.{path} has no shape yet: call the module once, then pass it")
    frozen = [] if torch.is_inference_mode_enabled() else [p for p, t in lazy if t.is_inference()]
    if path := next(iter(frozen), ""):
        raise ModelError(
            f"{name}.{path} was made under torch.inference_mode, so no step can change it: make "
            "the model outside of it"
        )


def no_component(name: str, owner: str, known: Iterable[str]) -> str:
    """Say that a pipeline lacks a component, and which it has."""
    names = sorted(known)
    hint = did_you_mean(name, names)
    return f'{owner} has no component "{name}"; it has {", ".join(names)}.{hint}'


def _attribute(target: Any, part: str, owner: str) -> Any:
    if part.isdigit() and hasattr(target, "__getitem__"):
        if int(part) >= len(target):
            raise ModelError(f'"{owner}" has {len(target)} entries, and no "{part}"')
        return target[int(part)]
    child = getattr(target, part, None)
    if callable(child) and not isinstance(child, type):
        return child
    public = [name for name in METHODS if callable(getattr(target, name, None))]
    names = [*public, *(name for name, _ in getattr(target, "named_children", list)())]
    hint = did_you_mean(part, names) or f" It has {', '.join(names)}."
    raise ModelError(f'"{owner}" has no module or method "{part}".{hint}')


def cuda_devices() -> list[int]:
    return list(range(torch.cuda.device_count())) if cuda_in_use() else []


def cuda_in_use() -> bool:
    """Whether this process uses CUDA; asking does not start it."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def parameter_bytes(module: nn.Module) -> int:
    """The bytes that a module's parameters and buffers take, quantised ones as stored."""
    return sum(stored_bytes(t) for t in [*module.parameters(), *module.buffers()])


def stored_bytes(tensor: torch.Tensor) -> int:
    """The bytes that a tensor takes as it is stored."""
    # A quantised weight is one tensor outside and several inside.
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return tensor.numel() * tensor.element_size()
    names, _ = flatten()
    return sum(stored_bytes(getattr(tensor, name)) for name in names)


def float_dtype(module: nn.Module) -> torch.dtype | None:
    """The floating dtype that a module computes in: that of most of its weights.

    Where diffusers stores weights in a dtype of their own (layerwise casting), it is the one that
    they are cast to for each call.
    """
    for part in module.modules():
        cast_to: torch.dtype | None = compute_dtype(part)
        if cast_to is not None:
            return cast_to
    counts: Counter[torch.dtype] = Counter()
    for tensor in module.parameters():
        if tensor.is_floating_point():
            counts[tensor.dtype] += tensor.numel()
    return counts.most_common(1)[0][0] if counts else None
