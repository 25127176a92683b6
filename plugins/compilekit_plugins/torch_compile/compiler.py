"""torch.compile with the step's settings, which hold whenever it compiles again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from compilekit_plugins import torch_internals

shapes = torch_internals.shape_config()


@dataclass(frozen=True)
class Compiler:
    """Compiles modules and functions.

    arguments: those of `torch.compile`.
    duck_shape: whether sizes that are equal at first are taken to stay equal.
    """

    arguments: dict[str, Any]
    duck_shape: bool = True

    def in_place(self, module: nn.Module) -> None:
        """Compile what calls of a module run."""
        if type(module).forward.__module__.startswith("torch.nn."):
            # `Module.compile` does nothing, without a word, where the class is torch's own.
            module.forward = self.function(module.forward)
            return
        module.compile(**self.arguments)
        torch_internals.replace_compiled_call(module, self._set)

    def function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compile a function."""
        return self._set(torch.compile(function, **self.arguments))

    def _set(self, compiled: Callable[..., Any]) -> Callable[..., Any]:
        """Have the setting hold in each call, for any of them may compile anew.

        It is read from the process's settings alone, and `torch.compile` takes no such option.
        """
        if self.duck_shape:
            return compiled

        @functools.wraps(compiled)
        def call(*args: Any, **kwargs: Any) -> Any:
            with shapes.patch(use_duck_shape=False):
                return compiled(*args, **kwargs)

        return call
