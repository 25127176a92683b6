"""A scheduler whose numbers stay on the CPU, so that no step waits for the GPU.

A scheduler looks up its tables by the timestep. Pipelines hand it one that lies on the GPU, and to
read that the CPU must wait until the GPU has done all its work.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

TAKE_A_TIMESTEP = ("step", "scale_model_input")


def keep_on_cpu(scheduler: Any) -> None:
    """Change a scheduler in place; what pipelines see of it stays as it was.

    Its class gets a subclass of the same name, so that its config and its copies go on working.
    """
    kind = type(scheduler)
    if "_keeps_on_cpu" in vars(kind):
        return
    methods = {
        name: _with_twin(getattr(kind, name)) for name in TAKE_A_TIMESTEP if hasattr(kind, name)
    }
    scheduler.__class__ = type(
        kind.__name__,
        (kind,),
        {
            **methods,
            "set_timesteps": _on_cpu_first(kind.set_timesteps),
            "_keeps_on_cpu": True,
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            "__doc__": kind.__doc__,
        },
    )


def _on_cpu_first(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make all the tables on the CPU; only what pipelines walk through goes to the device."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        device = bound.arguments.get("device")
        if "device" in signature.parameters:
            bound.arguments["device"] = "cpu"
        result = method(*bound.args, **bound.kwargs)
        twin = self.timesteps.cpu()
        if device is not None:
            self.timesteps = self.timesteps.to(device)
        self._twins = (self.timesteps, twin)
        return result

    return set_timesteps


def _with_twin(method: Callable[..., Any]) -> Callable[..., Any]:
    """Call with the timestep's twin on the CPU, which is found without looking at its value."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        timestep: Any = bound.arguments.get("timestep")
        twins: tuple[Any, Any] = getattr(self, "_twins", (None, None))
        shown, twin = twins
        # Whoever replaces the timesteps goes without.
        if shown is None or self.timesteps is not shown or not _is_of(timestep, shown):
            return method(*bound.args, **bound.kwargs)
        bound.arguments["timestep"] = twin[timestep.storage_offset()]
        # It looks for the timestep among all of them.
        self.timesteps = twin
        try:
            return method(*bound.args, **bound.kwargs)
        finally:
            self.timesteps = shown

    return call


def _is_of(timestep: Any, timesteps: torch.Tensor) -> bool:
    """Whether it is an element of them, which pipelines get by iteration."""
    return (
        isinstance(timestep, torch.Tensor)
        and timestep.dim() == 0
        and timestep.device == timesteps.device
        and timestep.dtype == timesteps.dtype
        and timestep.untyped_storage().data_ptr() == timesteps.untyped_storage().data_ptr()
    )
